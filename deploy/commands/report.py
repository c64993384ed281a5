"""`aplt report`: summary and pictures of a run."""

from __future__ import annotations

from aplt.deploy.commands.options import Run


def report(run: Run) -> None:
    """Write summary and pictures of a run into its folder again, and print the summary."""
    from aplt.common.data.prepared import PreparedData
    from aplt.deploy.runs import find_run
    from aplt.labeler.report import write_report

    store, config = find_run(run)
    write_report(store, config, PreparedData.open(config.data.prepared))
