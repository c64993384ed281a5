"""`aplt train` and `aplt label`: the two services in the foreground, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aplt.deploy.commands.options import Overrides

if TYPE_CHECKING:
    from aplt.common.service import Role

CfgArgument = Annotated[Path | None, typer.Argument(metavar="CFG", help="The configuration file (cfg.yaml).")]
CfgOption = Annotated[
    Path | None, typer.Option("--cluster", "-c", metavar="CFG", help="The same, as for `aplt launch`.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")]


def train(
    cfg: CfgArgument = None, cluster: CfgOption = None, overrides: Overrides = None, quiet: Quiet = False
) -> None:
    """Run the trainer here, without Ray; `aplt label` must run too, here or elsewhere on the same store."""
    _serve("trainer", cfg or cluster, overrides or [], quiet=quiet)


def label(
    cfg: CfgArgument = None, cluster: CfgOption = None, overrides: Overrides = None, quiet: Quiet = False
) -> None:
    """Run the labeler here, without Ray: pseudo-labels, prototypes and evaluations for the trainer of the run."""
    _serve("labeler", cfg or cluster, overrides or [], quiet=quiet)


def _serve(role: Role, cfg: Path | None, overrides: list[str], *, quiet: bool) -> None:
    import logging
    import shlex
    import signal

    from aplt.common.errors import ConfigError

    command = "train" if role == "trainer" else "label"
    if cfg is None:
        raise ConfigError(f"aplt {command} needs a configuration file: aplt {command} cfg.yaml")

    from aplt.common.service import StopRequestedError
    from aplt.deploy.config import load_config
    from aplt.deploy.display import messages
    from aplt.deploy.prepare import prepare_if_needed
    from aplt.deploy.runs import run_url
    from aplt.deploy.services import run_service

    config = load_config(cfg, overrides)
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    again = shlex.join(["aplt", command, str(cfg), *(part for override in overrides for part in ("--set", override))])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        prepare_if_needed(config, messages())
        run_service(role, config)
    except (KeyboardInterrupt, StopRequestedError):
        typer.echo(f"the {role} of run {config.run} stopped; nothing finished is lost. Go on with: {again}", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"the {role} of run {config.run} is done: {run_url(config)}", err=True)
