"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CFG", help="The configuration file (cfg.yaml).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one setting, such as schedule.epochs=20. May be repeated."),
]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The address of a run (runs/demo, s3://bucket/prefix/demo) or its cfg.yaml."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Epoch = Annotated[
    int | None, typer.Option("--epoch", min=1, help="The checkpoint after this epoch; the newest if not given.")
]
