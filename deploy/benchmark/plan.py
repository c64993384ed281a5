"""The grid: rows, shares of labels and seeds as cells, each with the configuration of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from aplt.common.data.prepare import add_split
from aplt.common.data.prepared import read_about
from aplt.common.errors import ConfigError
from aplt.deploy.benchmark.options import without_method
from aplt.deploy.benchmark.records import Cell
from aplt.deploy.benchmark.rows import APLT, Row, Table
from aplt.deploy.config import RunConfig, config_of
from aplt.deploy.prepare import prepare_if_needed, push_prepared

FREE_RULES = ("all", "usb_balanced")
"""Rules of data.labeled that take no share."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A grid: every row of every table, at every ratio, with every seed."""

    tables: tuple[Table, ...]
    ratios: tuple[float | None, ...]
    seeds: tuple[int, ...]
    base: dict[str, Any]
    """Settings of all runs, as in a configuration file."""
    folder: Path
    """That relative paths in them start at."""
    overrides: tuple[str, ...]
    """--set and what else was said on the command line."""
    out: Path

    def config(self, row: Row, ratio: float | None, seed: int) -> RunConfig:
        """Return the configuration of a run, but for its name.

        Raises:
            ConfigError: the settings do not fit together.
        """
        values = dict(self.base)
        if (values.get("method") or {}).get("name", APLT) != row.method:
            values = without_method(values)  # what the file says of a method is for that one alone
        source = f"row {row.name}"
        overrides = [*self.overrides, f"method.name={row.method}", f"seed={seed}", f"data.split_seed={seed}"]
        asked = config_of(values, overrides, folder=self.folder, source=source)
        if ratio is not None:
            rule = "per_class" if asked.data.labeled.rule in FREE_RULES else asked.data.labeled.rule
            overrides += ["data.labeled.total=null", f"data.labeled.rule={rule}", f"data.labeled.ratio={ratio / 100:g}"]
        total = asked.plan().total_epochs
        overrides += [setting.format(total=total) for setting in row.settings]
        config = config_of(values, overrides, folder=self.folder, source=source)
        if config.data.split is not None:
            raise ConfigError(
                f"data.split names one split ({config.data.split}), but a benchmark draws one for every ratio and "
                "seed: remove it, and say by data.test and data.labeled how"
            )
        return _for_a_cell(config, self.out)

    @property
    def rows(self) -> list[Row]:
        """Those of all tables, each once."""
        return list({row.name: row for table in self.tables for row in table.rows}.values())

    def cells(self, data: str | None) -> list[Cell]:
        """Return the cells of all tables, each once, and row by row within a seed, so that tables fill evenly.

        Args:
            data: Digest of the prepared clips, None if they are not at hand.
        """
        cells: dict[str, Cell] = {}
        for seed in self.seeds:
            for ratio in self.ratios:
                for row in self.rows:
                    cell = self.cell(row, ratio, seed, data)
                    cells.setdefault(cell.name, cell)
        return list(cells.values())

    def cell(self, row: Row, ratio: float | None, seed: int, data: str | None) -> Cell:
        """Return one cell; its run is named after it."""
        config = self.config(row, ratio, seed)
        return Cell(row=row.name, ratio=ratio, seed=seed, config=config, data=data).named()


def configured_ratio(config: RunConfig) -> float | None:
    """Return the share of labels that a configuration shows, per cent; None if its rule takes none."""
    labeled = config.data.labeled
    return None if labeled.rule in FREE_RULES or labeled.total is not None else 100 * labeled.ratio


def prepare_grid(cells: Sequence[Cell], console: Console) -> None:
    """Decode the clips, if that is not done, and draw the splits of all cells.

    Raises:
        DataError: the clips or a split cannot be made.
    """
    first = cells[0].config
    prepare_if_needed(first, console, own_split=True)
    for rules in {cell.config.data.rules for cell in cells}:
        add_split(first.data.folder, rules)
    push_prepared(first.data, first.store.options, console)


def data_digest(config: RunConfig) -> str | None:
    """Return the digest of the prepared clips and their settings, None where they are not at hand."""
    about = read_about(config.data.folder)
    return None if about is None else str(about["digest"])


def _for_a_cell(config: RunConfig, out: Path) -> RunConfig:
    """Return the configuration with its run below `out`, unless the store is not on disk, and threads to fit."""
    trainer, labeler = config.cluster.trainer, config.cluster.labeler
    url = config.store.url if "://" in config.store.url else str((out / "runs").resolve())
    return config.model_copy(
        update={
            "store": config.store.model_copy(update={"url": url}),
            "trainer": config.trainer.model_copy(update={"threads": max(1, int(trainer.cpus))}),
            "labeler": config.labeler.model_copy(update={"threads": max(1, int(labeler.cpus))}),
        }
    )
