"""`aplt data`: preparing and checking the clips."""

from __future__ import annotations

import typer

from aplt.deploy.commands.options import AsJson, ConfigFile, Overrides

NAMES_SHOWN = 5

app = typer.Typer(help="Prepare and check the clips of a configuration.", no_args_is_help=True)


@app.command()
def prepare(cfg: ConfigFile, overrides: Overrides = None) -> None:
    """Find, split and decode the clips; only what is missing or damaged, so it may be stopped and started again."""
    from aplt.deploy.config import check_paths, load_config
    from aplt.deploy.display import duration, make_table, messages, output
    from aplt.deploy.prepare import run_prepare

    config = load_config(cfg, overrides or ())
    check_paths(config)
    report = run_prepare(config, messages(), verify=True)
    console = output()
    console.print(make_table(None, ["class", "clips"], sorted(report.class_counts.items())))
    console.print(
        f"{report.num_clips} clips: {report.num_train} for training ({report.num_labeled} labelled, "
        f"{report.num_unlabeled} unlabelled), {report.num_test} for testing"
    )
    console.print(f"{report.decoded_now} decoded now, {duration(report.seconds)}; all in {config.data.prepared}")
    for clip_id, reason in report.quarantined:
        typer.echo(f"quarantined {clip_id}: {reason}", err=True)


@app.command()
def check(cfg: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Look for faults that training would not notice; exit code 1 if there are errors (warnings alone: 0)."""
    from dataclasses import asdict

    from aplt.common.data.check import check as find_faults
    from aplt.deploy.config import load_config
    from aplt.deploy.display import print_json

    config = load_config(cfg, overrides or ())
    findings = find_faults(root=config.data.root, prepared=config.data.prepared)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.severity} ({finding.kind}): {finding.message}")
            shown = ", ".join(finding.names[:NAMES_SHOWN])
            if finding.kind in ("missing", "quarantined"):
                typer.echo(f"  {shown}" + (", ... (--json lists all)" if len(finding.names) > NAMES_SHOWN else ""))
        if not findings:
            typer.echo(f"{config.data.prepared}: no faults")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)
