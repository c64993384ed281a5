"""The command line. Commands import what they need when they run, so that `aplt --help` answers at once."""

from __future__ import annotations

import faulthandler
import sys
import traceback
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aplt.common.errors import BUG, ApltError
from aplt.deploy.commands import (
    benchmark,
    config,
    data,
    evaluate,
    init,
    predict,
    report,
    runs,
    services,
    store,
    versions,
)

STARTING = "Start"
WATCHING = "Watch and steer"
RESULTS = "Results"
CHECKING = "Files and settings"

EXAMPLES = """[bold]From clips to a classifier[/bold]

  aplt init --data clips           look at a folder of clips and write cfg.yaml

  aplt launch --cluster cfg.yaml   prepare, train and label; Ctrl-C leaves it running

  aplt versions list cfg.yaml      the pseudo-labels of every phase

  aplt predict cfg.yaml new/*.mp4  classify other clips

RUN is the address of a run (runs/demo, s3://bucket/prefix/demo) or the cfg.yaml it was started from."""


class RootGroup(TyperGroup):
    """Turns errors that the user can mend into one line, and an interruption into exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        """Return what the command returns."""
        try:
            return super().invoke(ctx)
        except ApltError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="aplt",
    cls=RootGroup,
    help="Train a classifier of small, look-alike actions from many video clips and few labels.",
    epilog=EXAMPLES,
    invoke_without_command=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def root(
    ctx: typer.Context, show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if show_version:
        typer.echo(f"aplt {version('aplt')}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


app.command(rich_help_panel=STARTING)(init.init)
app.command(rich_help_panel=STARTING)(runs.demo)
app.command(rich_help_panel=STARTING)(runs.launch)
app.command(rich_help_panel=STARTING)(services.train)
app.command(rich_help_panel=STARTING)(services.label)
app.command(rich_help_panel=WATCHING)(runs.attach)
app.command(rich_help_panel=WATCHING)(runs.status)
app.command(rich_help_panel=WATCHING)(runs.stop)
app.command(rich_help_panel=WATCHING)(runs.restart)
app.add_typer(versions.app, name="versions", rich_help_panel=RESULTS)
app.command(rich_help_panel=RESULTS)(evaluate.evaluate)
app.command(rich_help_panel=RESULTS)(predict.predict)
app.command(rich_help_panel=RESULTS)(report.report)
app.command(rich_help_panel=RESULTS)(benchmark.benchmark)
app.add_typer(config.app, name="config", rich_help_panel=CHECKING)
app.add_typer(data.app, name="data", rich_help_panel=CHECKING)
app.add_typer(store.app, name="store", rich_help_panel=CHECKING)


def main() -> None:
    """Run the command line; an error that nobody foresaw shows its traceback and asks for a report."""
    if not faulthandler.is_enabled():
        faulthandler.enable()  # a mapped file that somebody cuts off ends the process: say where it was
    try:
        app()
    except Exception:
        traceback.print_exc()
        typer.echo(
            "error: this is a bug in aplt. Please report it with the lines above and the command you ran; "
            "a run that was going on can be resumed",
            err=True,
        )
        sys.exit(BUG)


if __name__ == "__main__":
    main()
