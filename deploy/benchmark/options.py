"""What each option of `aplt benchmark` means, read one by one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aplt.common.errors import ConfigError
from aplt.deploy.benchmark.rows import TABLES, Row, Table, method_row
from aplt.deploy.config import DATA, PREPARING, method_configs, read_yaml
from aplt.deploy.prepare import propose_data

Number = TypeVar("Number", int, float)

PHASES = 4
"""How many label versions train in a budget: as in the paper, where 40 epochs make four phases of 10."""
MAX_SEED = 2**32 - 1


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
    labels = {row.name: row.label for each in TABLES.values() for row in each.rows}
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
        extra.append(method_row(method, labels.get(method, method)))
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
    expected = "per cents of the labels, above 0 and up to 100, such as 10,25"
    return _listed("--ratios", text, float, lambda ratio: 0 < ratio <= 100, expected)


def chosen_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds in a list such as `0,1,2`, in their order and each once.

    Raises:
        ConfigError: it is not such a list.
    """
    expected = f"whole numbers from 0 to {MAX_SEED}, such as 0,1,2"
    return _listed("--seeds", text, int, lambda seed: 0 <= seed <= MAX_SEED, expected)


def without_method(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those of a method, and without where labels come from if only FixMatch, ASY, has that."""
    rest = {name: section for name, section in values.items() if name != "method"}
    labeler = rest.get("labeler")
    if isinstance(labeler, dict) and labeler.get("strategy") == "parametric":
        rest["labeler"] = {name: value for name, value in labeler.items() if name != "strategy"}
    return rest


def _only(rows: Iterable[Row], names: Sequence[str]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.name in names)


def _listed(
    option: str, text: str, read: Callable[[str], Number], allowed: Callable[[Number], bool], expected: str
) -> tuple[Number, ...]:
    """Return the values between commas, each once; raise ConfigError if one is not as expected."""
    try:
        values = tuple(dict.fromkeys(map(read, text.split(","))))
    except ValueError:
        values = ()
    if not values or not all(map(allowed, values)):
        raise ConfigError(f"{option} {text}: expected {expected}")
    return values
