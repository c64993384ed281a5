"""From a command line to a plan, with a clear error for what makes no sense or has no effect."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aplt.common.errors import ConfigError
from aplt.deploy.benchmark.options import base_settings, budget_overrides, chosen_tables, without_method
from aplt.deploy.benchmark.plan import Plan
from aplt.deploy.benchmark.rows import APLT, APLT_PARTS, Row
from aplt.deploy.config import config_of, method_configs

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
    any_method = {**without_method(base), "method": {"name": "supervised"}}
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


def _name_of(override: str) -> str:
    return override.partition("=")[0].strip()
