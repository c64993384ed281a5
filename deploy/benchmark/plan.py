"""From what the user asks for to the cells of the grid."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from aplt.common.data.prepare import add_split
from aplt.common.data.prepared import read_about
from aplt.common.errors import ConfigError
from aplt.deploy.benchmark.records import Cell
from aplt.deploy.benchmark.rows import APLT, APLT_PARTS, TABLES, Row, Table, method_row
from aplt.deploy.config import DATA, PREPARING, RunConfig, config_of, method_configs, read_yaml
from aplt.deploy.prepare import prepare_if_needed, propose_data, push_prepared

PHASES = 4
"""How many label versions train in a budget: as in the paper, where 40 epochs make four phases of 10."""
FREE_RULES = ("all", "usb_balanced")
"""Rules of data.labeled that take no share."""
MAX_SEED = 2**32 - 1
NOT_TO_SET = {
    "run": "runs are named after their cells",
    "seed": "--seeds says the seeds",
    "data.split_seed": "--seeds says the seeds, those of the splits too",
    "method": "--methods chooses rows, and --set method.NAME=VALUE gives their methods a setting",
    "method.name": "--methods chooses rows",
    "trainer.threads": "it follows from cluster.trainer.cpus",
    "labeler.threads": "it follows from cluster.labeler.cpus",
}
"""Settings that a benchmark decides itself, and by what."""


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
            values = _without_method(values)  # what the file says of a method is for that one alone
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


def make_plan(
    table: str,
    *,
    cfg: Path | None,
    data: Path | None,
    ratios: tuple[float | None, ...],
    seeds: tuple[int, ...],
    backbone: str | None,
    methods: Sequence[str] | None,
    budget: str | None,
    validate: float | None,
    out: Path,
    overrides: Sequence[str],
) -> Plan:
    """Return the grid that a command line asks for.

    Raises:
        ConfigError: naming the file or the option that is wrong, or asks for what the rows do not have.
        DataError: the clips cannot be read.
    """
    said: dict[str, list[str]] = {}
    if budget is not None:
        said[f"--budget {budget}"] = budget_overrides(budget)
    if backbone is not None:
        said[f"--backbone {backbone}"] = [f"model.name={backbone}"]
    if validate is not None:
        if not 0 < validate < 1:
            raise ConfigError(
                f"--validate {validate:g}: expected a share of the labelled clips above 0 and below 1, such as 0.3"
            )
        said[f"--validate {validate:g}"] = [f"data.validation={validate}"]
    tables = chosen_tables(table, methods)
    base, folder = base_settings(cfg, data, out)
    plan = Plan(
        tables=tables,
        ratios=ratios,
        seeds=seeds,
        base=base,
        folder=folder,
        overrides=(*overrides, *(setting for settings in said.values() for setting in settings)),
        out=out,
    )
    _refuse_without_effect(plan.rows, overrides, said, ratios)
    _check_each(base, folder, str(cfg or f"--data {data}"), overrides, said)
    _refuse_other_parts(plan)
    return plan


def base_settings(cfg: Path | None, data: Path | None, out: Path) -> tuple[dict[str, Any], Path]:
    """Return the settings that a configuration file and a folder of clips, prepared or not, give; and their folder.

    Of a prepared folder's settings, those that decide what is in it go before the file's. Clips that are not prepared
    are so below `out`: the file's prepared folder is that of the file's clips.

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
    of_file = values.get("data") or {}
    if not isinstance(of_file, dict):
        raise ConfigError(f"{cfg}: data: must be a section with settings of its own, got the value {of_file!r}")
    if (data / DATA).is_file():
        recorded = read_yaml(data / DATA).get("data") or {}
        prepared = {name: recorded[name] for name in PREPARING if name in recorded}
        here = {"prepared": str(data.resolve()), "local": None}
        values["data"] = recorded | {"split": None} | of_file | prepared | here
        return values, folder
    here = {"root": str(data.resolve()), "prepared": str((out / "prepared").resolve()), "local": None}
    values["data"] = of_file | here if of_file else propose_data("folder", here, ()).model_dump(mode="json")
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
    for method in dict.fromkeys(methods):
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
    """Return the schedule of `W+E` epochs, in at most as many phases as the paper has, all but the last equally long.

    Raises:
        ConfigError: it is not of that form.
    """
    warmup, plus, epochs = budget.partition("+")
    if not (plus and warmup.isdecimal() and epochs.isdecimal()):
        raise ConfigError(f"--budget {budget}: expected WARM-UP+EPOCHS, such as 15+40")
    phase = max(1, -(-int(epochs) // PHASES))
    values = {"warmup_epochs": int(warmup), "epochs": int(epochs), "phase_epochs": phase}
    return [f"schedule.{name}={value}" for name, value in values.items()]


def chosen_ratios(text: str) -> tuple[float, ...]:
    """Return the shares of labels in a list such as `10,25`, per cent, in their order and each once.

    Raises:
        ConfigError: it is not such a list.
    """
    try:
        values = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or not all(0 < value <= 100 for value in values):
        raise ConfigError(f"--ratios {text}: expected per cents of the labels, above 0 and up to 100, such as 10,25")
    return values


def chosen_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds in a list such as `0,1,2`, in their order and each once.

    Raises:
        ConfigError: it is not such a list.
    """
    try:
        values = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or not all(0 <= value <= MAX_SEED for value in values):
        raise ConfigError(f"--seeds {text}: expected whole numbers from 0 to {MAX_SEED}, such as 0,1,2")
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


def _refuse_without_effect(
    rows: Sequence[Row], overrides: Sequence[str], said: Mapping[str, Sequence[str]], ratios: Sequence[float | None]
) -> None:
    """Raise ConfigError for a --set that another option overrules, or that no row takes."""
    why = {_name_of(setting): f"{option} says it" for option, settings in said.items() for setting in settings}
    if None not in ratios:
        why |= dict.fromkeys(("data.labeled.ratio", "data.labeled.total"), "--ratios says how many labels are shown")
    why |= NOT_TO_SET
    for override in overrides:
        name = _name_of(override)
        if name == "store.url" and "://" not in override:
            raise ConfigError(f"--set {override} has no effect in a benchmark: runs are below --out")
        if name in why:
            raise ConfigError(f"--set {override} has no effect in a benchmark: {why[name]}")
        settings = {f"method.{setting}" for row in rows for setting in method_configs()[row.method].model_fields}
        if name.startswith("method.") and name not in settings:
            near = difflib.get_close_matches(name, settings, n=1, cutoff=0.5)
            raise ConfigError(
                f"--set {override}: no method of these rows has this setting"
                f"{f', did you mean {near[0]}?' if near else ''}"
            )
        if not any(_takes(row, name) for row in rows):
            raise ConfigError(
                f"--set {override} has no effect on these rows, which differ in just that: choose among them with "
                "--methods"
            )


def _takes(row: Row, name: str) -> bool:
    """Whether a setting said on the command line is that of the row's runs."""
    if name.startswith("schedule."):  # a row that states it still trains for as many epochs
        return True
    method, has = name.removeprefix("method."), method_configs()[row.method].model_fields
    return name not in map(_name_of, row.settings) and (method == name or method in has)


def _check_each(
    base: Mapping[str, Any],
    folder: Path,
    source: str,
    overrides: Sequence[str],
    said: Mapping[str, Sequence[str]],
) -> None:
    """Raise ConfigError, naming the file or the option whose settings are wrong, before rows add theirs.

    What fits some methods and not others, such as a schedule, is left to the rows: those are not all methods.
    """
    given = [override for override in overrides if not _name_of(override).startswith("method.")]
    any_method = {**_without_method(base), "method": {"name": "supervised"}}
    try:
        config_of(any_method, given, folder=folder, source="--set")
    except ConfigError:
        config_of(any_method, (), folder=folder, source=source)
        raise
    own_method = {"run": "method", "data": {"root": "."}, "method": base.get("method")}
    config_of(own_method, (), folder=folder, source=source)
    for option, settings in said.items():
        given += settings
        config_of(any_method, given, folder=folder, source=option)


def _refuse_other_parts(plan: Plan) -> None:
    """Raise ConfigError if APLT itself is another method than the one that ablations beside it take apart."""
    aplt = next((row for row in plan.rows if row.name == APLT), None)
    if aplt is None or all(row.method != APLT for row in plan.rows if row.name != APLT):
        return
    given = plan.config(aplt, plan.ratios[0], plan.seeds[0]).model_dump(mode="json")
    whole = plan.config(replace(aplt, settings=APLT_PARTS), plan.ratios[0], plan.seeds[0]).model_dump(mode="json")
    for part in APLT_PARTS:
        section, name = _name_of(part).split(".")
        if given[section][name] != whole[section][name]:
            raise ConfigError(
                f"{section}.{name} is {str(given[section][name]).lower()}, but APLT stands beside rows that lack parts "
                f"of it and must itself have {part}: remove the setting, or choose rows with --methods"
            )


def _without_method(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those of a method, and without where labels come from if only FixMatch, ASY, has that."""
    rest = {name: section for name, section in values.items() if name != "method"}
    labeler = rest.get("labeler")
    if isinstance(labeler, dict) and labeler.get("strategy") == "parametric":
        rest["labeler"] = {name: value for name, value in labeler.items() if name != "strategy"}
    return rest


def _name_of(override: str) -> str:
    return override.partition("=")[0].strip()


def _only(rows: Iterable[Row], names: Sequence[str]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.name in names)
