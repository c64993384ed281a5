"""`aplt launch`, `attach`, `status`, `stop` and `restart`: a run on Ray, from start to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aplt.deploy.commands.options import AsJson, Overrides, Run

Services = Annotated[
    Literal["trainer", "labeler", "all"], typer.Argument(metavar="trainer|labeler|all", help="Which service.")
]


def launch(
    cluster: Annotated[Path, typer.Option("--cluster", "-c", metavar="CFG", help="The configuration file (cfg.yaml).")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run of this name.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not stay to watch.")] = False,
) -> None:
    """Prepare the clips, start trainer and labeler on Ray, and watch them; Ctrl-C leaves them at work."""
    from aplt.deploy import launching
    from aplt.deploy.config import load_config

    launching.launch(load_config(cluster, overrides or []), resume=resume, attach=not detach)


def demo(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where clips and runs go.")] = Path("demo"),
) -> None:
    """Show everything on made-up clips: both services on a local Ray, beside a labelled-only baseline."""
    from aplt.deploy import demo

    demo.demo(folder)


def attach(run: Run) -> None:
    """Watch a run until it is over; Ctrl-C leaves it at work."""
    from aplt.deploy.following import follow
    from aplt.deploy.runs import find_run

    follow(*find_run(run))


def status(run: Run, as_json: AsJson = False) -> None:
    """Show what both services of a run are doing; for a folder of runs, list them."""
    from aplt.deploy import launching
    from aplt.deploy.display import output, print_json
    from aplt.deploy.following import show_status, status_values
    from aplt.deploy.runs import find_run, is_run

    if not is_run(run):
        launching.list_runs(run, output())
        return
    store, config = find_run(run)
    if as_json:
        print_json(status_values(store))
    else:
        show_status(store, config, output())


def stop(service: Services, run: Run) -> None:
    """Stop a service, or both, politely; nothing published is lost."""
    from aplt.deploy import launching
    from aplt.deploy.runs import find_run

    launching.stop(*find_run(run), service)


def restart(service: Services, run: Run) -> None:
    """Stop a service if it is at work and start it again; it goes on from what the store holds."""
    from aplt.deploy import launching
    from aplt.deploy.runs import find_run

    launching.restart(*find_run(run), service)
