"""From what the user asks for to the cells of the grid."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from aplt.common.data.prepare import add_split
from aplt.common.data.prepared import read_about
from aplt.common.errors import ConfigError
from aplt.deploy.benchmark.records import Cell
from aplt.deploy.benchmark.rows import TABLES, Row, Table, method_row
from aplt.deploy.config import DATA, RunConfig, config_of, method_configs, read_yaml
from aplt.deploy.prepare import prepare_if_needed, propose_data, push_prepared

PHASES = 4
"""How many label versions train in a budget: as in the paper, where 40 epochs make four phases of 10."""
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
        if (values.get("method") or {}).get("name", "aplt") != row.method:
            values.pop("method", None)  # what the file says of a method is for that one alone
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

    def cells(self, data: str | None) -> list[Cell]:
        """Return the cells of all tables, each once, and row by row within a seed, so that tables fill evenly.

        Args:
            data: Digest of the prepared clips, None if they are not at hand.
        """
        cells: dict[str, Cell] = {}
        rows = list({row.name: row for table in self.tables for row in table.rows}.values())
        for seed in self.seeds:
            for ratio in self.ratios:
                for row in rows:
                    cell = self.cell(row, ratio, seed, data)
                    cells.setdefault(cell.name, cell)
        return list(cells.values())

    def cell(self, row: Row, ratio: float | None, seed: int, data: str | None) -> Cell:
        """Return one cell; its run is named after it."""
        config = self.config(row, ratio, seed)
        return Cell(row=row.name, ratio=ratio, seed=seed, config=config, data=data).named()


def base_settings(cfg: Path | None, data: Path | None, out: Path) -> tuple[dict[str, Any], Path]:
    """Return the settings that a configuration file and a folder of clips, prepared or not, give; and their folder.

    Raises:
        ConfigError: neither was given, or one is not there.
        DataError: the clips cannot be read.
    """
    if cfg is None and data is None:
        raise ConfigError("aplt benchmark needs a configuration file, or --data with a folder of clips")
    values: dict[str, Any] = {} if cfg is None else read_yaml(cfg)
    folder = Path() if cfg is None else cfg.parent
    values["run"] = "benchmark"
    if data is None:
        return values, folder
    if not data.is_dir():
        raise ConfigError(f"--data {data} is not a folder: give one that `aplt data prepare` made, or one with clips")
    if (data / DATA).is_file():
        values["data"] = read_yaml(data / DATA)["data"] | {"prepared": str(data.resolve()), "local": None}
    elif values.get("data"):
        values["data"] = values["data"] | {"root": str(data.resolve())}
    else:
        proposed = propose_data("folder", {"root": data.resolve(), "prepared": str((out / "prepared").resolve())}, ())
        values["data"] = proposed.model_dump(mode="json")
    return values, folder


def chosen_tables(name: str, methods: Sequence[str] | None) -> tuple[Table, ...]:
    """Return the tables of this name, or all, with those rows alone that `methods` names, and rows for other methods.

    Raises:
        ConfigError: there is no such table, row or method.
    """
    if name != "all" and name not in TABLES:
        raise ConfigError(f"{name!r} is no table; there are {', '.join(TABLES)} and all")
    tables = tuple(TABLES.values()) if name == "all" else (TABLES[name],)
    if methods is None:
        return tables
    known = {row.name: row for table in tables for row in table.rows}
    extra = []
    for method in methods:
        if method in known:
            continue
        if method not in method_configs():
            allowed = sorted({*known, *method_configs()})
            near = difflib.get_close_matches(method, allowed, n=1, cutoff=0.5)
            raise ConfigError(
                f"--methods {method}: no row of {name} and no method{f', did you mean {near[0]}?' if near else ''}; "
                f"there are {', '.join(allowed)}"
            )
        extra.append(method_row(method, method))
    kept = [
        Table(name=table.name, number=table.number, title=table.title, rows=(*_only(table.rows, methods), *extra))
        for table in tables
    ]
    return tuple(table for table in kept if table.rows)


def budget_overrides(budget: str) -> list[str]:
    """Return the schedule of `W+E` epochs, in as many phases as the paper has.

    Raises:
        ConfigError: it is not of that form.
    """
    warmup, plus, epochs = budget.partition("+")
    if not (plus and warmup.isdecimal() and epochs.isdecimal()):
        raise ConfigError(f"--budget {budget}: expected WARM-UP+EPOCHS, such as 15+40")
    phase = max(1, -(-int(epochs) // PHASES))
    values = {"warmup_epochs": int(warmup), "epochs": int(epochs), "phase_epochs": phase}
    return [f"schedule.{name}={value}" for name, value in values.items()]


def numbers(option: str, text: str, *, whole: bool = False) -> tuple[float, ...]:
    """Return the numbers in a list such as `10,25`, in their order and each once.

    Raises:
        ConfigError: it is not such a list.
    """
    try:
        values = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or min(values) < 0 or (whole and any(value != int(value) for value in values)):
        raise ConfigError(f"{option} {text}: expected {'whole ' if whole else ''}numbers, such as 0,1,2")
    return values


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
    prepare_if_needed(first, console)
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


def _only(rows: Iterable[Row], names: Sequence[str]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.name in names)
