"""What `aplt benchmark` does: plan, prepare, run, write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aplt.common.errors import RunError
from aplt.deploy.benchmark.grid import Folder, run_grid
from aplt.deploy.benchmark.plan import (
    Plan,
    base_settings,
    budget_overrides,
    chosen_tables,
    data_digest,
    prepare_grid,
)
from aplt.deploy.display import messages


def run_benchmark(
    table: str,
    *,
    cfg: Path | None,
    data: Path | None,
    ratios: tuple[float | None, ...],
    seeds: tuple[int, ...],
    backbone: str | None,
    methods: Sequence[str] | None,
    budget: str | None,
    out: Path,
    overrides: Sequence[str],
    tables_only: bool,
    keep_runs: bool,
) -> None:
    """Run the grid and write its tables and figures.

    Raises:
        RunError: some cells failed; everything else is done and written.
    """
    tables = chosen_tables(table, methods)
    settings, settings_folder = base_settings(cfg, data, out)
    said = [*(budget_overrides(budget) if budget else []), *([f"model.name={backbone}"] if backbone else [])]
    plan = Plan(
        tables=tables,
        ratios=ratios,
        seeds=seeds,
        base=settings,
        folder=settings_folder,
        overrides=(*overrides, *said),
        out=out,
    )
    folder, console = Folder(out), messages()
    first = plan.cells(None)[0].config
    failed = 0
    with folder.locked():
        if not tables_only:
            prepare_grid(plan.cells(None), console)
            failed = run_grid(plan.cells(data_digest(first)), first.cluster, folder, console, keep_runs=keep_runs)
    if failed:
        raise RunError(
            f"{failed} runs failed; {out / 'logs'} says why. The same command runs them again, and nothing else"
        )
