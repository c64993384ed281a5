"""`aplt predict`: classify video files with a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

from aplt.deploy.commands.options import Epoch, Run

Format = Literal["table", "csv", "json"]
CSV_COLUMNS = ("path", "label", "probability", "distance", "label_2", "probability_2", "label_3", "probability_3")


def predict(
    run: Run,
    clips: Annotated[list[Path], typer.Argument(metavar="CLIPS...", help="Video files, or folders of them.")],
    form: Annotated[
        Format | None, typer.Option("--format", help="Default: by the name of --out, else a table.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to a file.")] = None,
    epoch: Epoch = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Classify video files: label, probability, runners-up and distance from the prototype.

    Files that cannot be decoded are named and skipped; exit code 1 if there was no other.
    """
    from rich.progress import track

    from aplt.common.errors import DataError
    from aplt.deploy.display import messages, open_output
    from aplt.deploy.inference import load_classifier, predict_files
    from aplt.deploy.runs import find_run

    form = form or _format_of(out)
    paths = list(_files(clips))
    if not paths:
        raise DataError(f"there are no video files in {', '.join(map(str, clips))}")
    store, config = find_run(run)
    classifier = load_classifier(store, config, epoch=epoch)
    console = messages()
    console.print(f"{store.run} after epoch {classifier.epoch}, decided by {classifier.decided_by}")
    with open_output(out, force=force) as file:
        answers = list(
            track(
                predict_files(classifier, paths),
                total=len(paths),
                description="clips",
                console=console,
                disable=not console.is_terminal,
                transient=True,
            )
        )
        places = {str(path): place for place, path in enumerate(paths)}
        answers.sort(key=lambda answer: places[answer["path"]])  # they come in the order in which they were decoded
        _write(answers, form=form, file=file)
    bad = [answer for answer in answers if "error" in answer]
    for answer in bad:
        typer.echo(f"skipped {answer['path']}: {answer['error']}", err=True)
    if len(bad) == len(answers):
        raise typer.Exit(1)


def _format_of(out: Path | None) -> Format:
    if out is None:
        return "table"
    return "json" if out.suffix == ".json" else "csv"


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    """Yield files as they are given and the videos of folders in order; what does not exist is left to the decoder."""
    from aplt.common.data.files import VIDEO_EXTENSIONS

    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_EXTENSIONS and p.is_file())
        else:
            yield path


def _write(answers: list[dict[str, Any]], *, form: Format, file: TextIO) -> None:
    from aplt.deploy.display import make_table, number, output, percent, print_json, write_csv

    good = [answer for answer in answers if "error" not in answer]
    if form == "json":
        print_json(answers, file)
    elif form == "csv":
        write_csv(file, CSV_COLUMNS, map(_flat, good))
    elif good:
        rows = [
            (
                answer["path"],
                answer["label"],
                percent(answer["probability"]),
                number(answer["distance"]),
                ", ".join(f"{other['label']} {percent(other['probability'])}" for other in answer["top"][1:]),
            )
            for answer in good
        ]
        output(file).print(make_table(None, ["clip", "label", "probability", "distance", "then"], rows, left=2))


def _flat(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer as one row of a CSV file."""
    row = {key: answer[key] for key in ("path", "label", "probability", "distance")}
    for place, other in enumerate(answer["top"][1:], start=2):
        row |= {f"label_{place}": other["label"], f"probability_{place}": other["probability"]}
    return row
