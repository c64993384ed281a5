"""`aplt benchmark`: the tables of the paper on one's own clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aplt.deploy.commands.options import Overrides


def benchmark(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="table1, table2, table3, table4, table5 or all.")],
    cfg: Annotated[Path | None, typer.Argument(metavar="CFG", help="The configuration file (cfg.yaml).")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="CLIPS", help="The folder with the clips, or one that is prepared.")
    ] = None,
    ratios: Annotated[
        str | None,
        typer.Option("--ratios", metavar="A,B", help="Per cent of the labels that are shown, such as 10,25."),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", metavar="A,B", help="Of splits and training.")] = "0,1,2",
    backbone: Annotated[
        str | None, typer.Option("--backbone", metavar="NAME", help="The network of all runs, as model.name.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="A,B", help="Only these rows; any method may be added.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="W+E", help="Epochs of warm-up and of phases, such as 15+40.")
    ] = None,
    validate: Annotated[
        float | None,
        typer.Option(
            "--validate", metavar="SHARE", help="Test on this share of the labelled clips; leave the test clips out."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where records, tables and figures go.")
    ] = Path("benchmark"),
    overrides: Overrides = None,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Run nothing; write tables and figures from the records.")
    ] = False,
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Do not remove finished runs.")] = False,
) -> None:
    """Run every method of a table of the paper with several seeds, and write the table beside the published numbers.

    What was run before, here or elsewhere, is not run again; the same command goes on where it was interrupted.
    """
    from aplt.deploy.benchmark.asked import make_plan
    from aplt.deploy.benchmark.command import run_benchmark
    from aplt.deploy.benchmark.options import chosen_ratios, chosen_seeds

    plan = make_plan(
        table,
        cfg=cfg,
        data=data,
        ratios=(None,) if ratios is None else chosen_ratios(ratios),
        seeds=chosen_seeds(seeds),
        backbone=backbone,
        methods=None if methods is None else [name.strip() for name in methods.split(",")],
        budget=budget,
        validate=validate,
        out=out,
        overrides=overrides or [],
    )
    run_benchmark(plan, tables_only=tables_only, keep_runs=keep_runs)
