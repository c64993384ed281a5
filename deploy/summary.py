"""The summary at the end of a run, as its report left it in the store."""

from __future__ import annotations

from rich.console import Console

from aplt.common.errors import MissingArtifactError
from aplt.common.store import ArtifactStore
from aplt.deploy.display import make_table
from aplt.labeler.report import FOLDER, summary_rows


def print_summary(store: ArtifactStore, console: Console) -> None:
    """Print the tables of the run's summary, where its pictures are and where to look next.

    Raises:
        MissingArtifactError: the run has no report yet.
    """
    summary = store.read_json(f"{FOLDER}/summary.json")
    if summary is None:
        raise MissingArtifactError(f"run {store.run} has no report yet; make it with `aplt report`")
    console.print(f"[bold]Run {summary['run']}, method {summary['method']}[/bold]\n")
    for table in summary_rows(summary):
        console.print(make_table(table.title, table.columns, table.rows, left=1))
    for line in summary["where_next"]:
        console.print(line, markup=False)
    folder = store.local_path or f"{store.url}/{store.run}"
    if summary["pictures"]:
        console.print(f"Pictures in {folder}/{FOLDER}: {', '.join(summary['pictures'][:3])}, ...", markup=False)
