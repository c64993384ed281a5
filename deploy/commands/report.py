"""`aplt report`: summary and pictures of a run."""

from __future__ import annotations

from aplt.deploy.commands.options import AsJson, Run


def report(run: Run, as_json: AsJson = False) -> None:
    """Write summary and pictures of a run into its folder again, as far as it is, and print the summary."""
    from aplt.common.data.prepared import PreparedData
    from aplt.deploy.display import output, print_json
    from aplt.deploy.runs import find_run
    from aplt.deploy.summary import print_summary
    from aplt.labeler.report import write_report

    store, config = find_run(run)
    summary = write_report(store, config, PreparedData.open(config.data.folder, config.data.split_name))
    if as_json:
        print_json(summary)
    else:
        print_summary(store, output())
