"""`aplt versions`: the pseudo-labels and prototypes of a run, phase by phase."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aplt.deploy.commands.options import AsJson, Run

app = typer.Typer(help="List, show, compare and export the label versions of a run.", no_args_is_help=True)

Version = Annotated[int | None, typer.Argument(metavar="[K]", help="The label version; the newest if not given.")]


@app.command("list")
def list_(run: Run, as_json: AsJson = False) -> None:
    """List all label versions: what they came from, how many clips they keep, how right they are."""
    from aplt.deploy.display import age, make_table, number, output, percent, print_json
    from aplt.deploy.runs import find_run
    from aplt.deploy.versions import list_versions

    store, config = find_run(run)
    versions = list_versions(store)
    if as_json:
        print_json(versions)
        return
    if not versions:
        typer.echo(f"run {store.run} has no label version yet")
        return
    rows = [
        (
            f"v{v['version']}",
            ", ".join(v["parents"]),
            v["epoch"],
            f"{v['kept']} of {v['clips']}",
            percent(v["kept_share"]),
            number(v["ratio"]),
            percent(v["precision"]),
            percent(v[f"{config.method.tested_head}_accuracy"]),
            age(v["made_at"]),
        )
        for v in versions
    ]
    columns = ["labels", "made from", "epoch", "kept", "share", "r", "precision", "test accuracy", "made"]
    output().print(make_table(f"Label versions of {store.run}", columns, rows, left=2))


@app.command()
def show(run: Run, version: Version = None, as_json: AsJson = False) -> None:
    """Show one label version class by class: thresholds, support, kept clips, precision."""
    from aplt.deploy.display import make_table, number, output, percent, print_json
    from aplt.deploy.runs import class_names, find_run
    from aplt.deploy.versions import describe_classes, describe_version, pick_version

    store, config = find_run(run)
    version = pick_version(store, version)
    v = describe_version(store, version)
    classes = describe_classes(store, version, class_names(store, config))
    if as_json:
        print_json(v | {"per_class": classes})
        return
    rows = [
        (
            c["class"],
            c["assigned"],
            c["kept"],
            percent(c["kept_share"]),
            number(c["local_threshold"]),
            number(c["adaptive_threshold"]),
            c["support"],
            percent(c["precision"]),
        )
        for c in classes
    ]
    columns = ["class", "clips", "kept", "share", "mean distance", "threshold", "support", "precision"]
    console = output()
    console.print(make_table(f"Labels v{version} of {store.run}", columns, rows))
    console.print(f"made from {', '.join(v['parents'])} by the {v['made_by']}, {v['made_at']}")
    console.print(
        f"kept {v['kept']} of {v['clips']} clips ({percent(v['kept_share'])}), precision {percent(v['precision'])}, "
        f"r {number(v['ratio'])}, mean distance {number(v['global_threshold'])}, {v['iterations']} iterations"
        + ("" if v["converged"] else ", not converged")
    )


@app.command()
def diff(
    run: Run,
    before: Annotated[int, typer.Argument(metavar="A", help="A label version.")],
    after: Annotated[int, typer.Argument(metavar="B", help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Compare two label versions: clips that changed their label or were kept or dropped."""
    from aplt.deploy.display import make_table, number, output, percent, print_json
    from aplt.deploy.runs import class_names, find_run
    from aplt.deploy.versions import compare_versions, pick_version

    store, config = find_run(run)
    old, new = (store.labels.load(pick_version(store, version)) for version in (before, after))
    changes = compare_versions(old, new, class_names(store, config))
    if as_json:
        print_json(changes)
        return
    console, clips = output(), max(1, changes["clips"])
    rows = [
        (
            c["class"],
            c["assigned_before"],
            f"-{c['left']}",
            f"+{c['came']}",
            c["assigned_after"],
            c["kept_before"],
            c["kept_after"],
        )
        for c in changes["per_class"]
    ]
    columns = ["class", f"clips v{before}", "left", "came", f"clips v{after}", f"kept v{before}", f"kept v{after}"]
    console.print(make_table(f"Labels v{before} and v{after} of {store.run}", columns, rows))
    console.print(f"{changes['clips']} clips in both")
    for text, key in (
        ("changed their label", "changed_label"),
        ("of these kept in both", "changed_label_kept_in_both"),
        ("newly kept", "newly_kept"),
        ("newly dropped", "newly_dropped"),
    ):
        console.print(f"  {changes[key]:6d}  {text} ({percent(changes[key] / clips)})")
    console.print(f"  r {number(changes['ratio'][0])} -> {number(changes['ratio'][1])}")
    if changes["flows"]:
        console.print("most frequent changes")
        for flow in changes["flows"][:10]:
            console.print(f"  {flow['clips']:6d}  {flow['from']} -> {flow['to']}", markup=False)


@app.command()
def export(
    run: Run,
    version: Version = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The CSV file; - for standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Write the pseudo-label of every unlabelled clip as CSV: clip, path, label, distance, threshold, kept."""
    from aplt.common.data.prepared import PreparedData
    from aplt.deploy.display import open_output, write_csv
    from aplt.deploy.runs import find_run
    from aplt.deploy.versions import EXPORT_COLUMNS, export_rows, pick_version

    store, config = find_run(run)
    version = pick_version(store, version)
    target = Path(f"{store.run}-labels-v{version}.csv") if out is None else out
    data = PreparedData.open(config.data.folder, config.data.split_name)
    clips = [
        (clip_id, str(config.data.root / video))
        for clip_id, video in zip(data.manifest.clip_id, data.manifest.video, strict=True)
    ]
    labels = store.labels.load(version)
    with open_output(target, force=force) as file:
        write_csv(file, EXPORT_COLUMNS, export_rows(labels, clips, list(data.class_names)))
    if str(target) != "-":
        typer.echo(f"wrote {len(labels.rows_N)} clips of labels v{version} to {target}")
