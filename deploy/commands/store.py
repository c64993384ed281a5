"""`aplt store`: the files of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aplt.deploy.commands.options import AsJson, Run

if TYPE_CHECKING:
    from aplt.common.store import ArtifactStore

app = typer.Typer(help="Check and tidy up what runs have stored.", no_args_is_help=True)

RunOrStore = Annotated[
    str,
    typer.Argument(metavar="RUN|STORE", help="A run (its address or cfg.yaml), or a store (runs) for all runs in it."),
]


@app.command()
def gc(
    where: RunOrStore,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    grace_s: Annotated[
        float, typer.Option("--grace", min=0, metavar="SECONDS", help="Keep what somebody may still be writing.")
    ] = 3600.0,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            min=1,
            metavar="N",
            help="Remove checkpoints and features too, but for the newest N label versions'.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove leftovers of interrupted writers; with --keep also old versions that nothing needs any more."""
    from aplt.common.retention import remove, unneeded_in
    from aplt.deploy.display import file_size, print_json
    from aplt.deploy.runs import recorded_config

    stores = _stores(where)
    old: dict[str, dict[str, list[int]]] = {}
    for store in stores:
        old[store.run] = {} if keep is None else unneeded_in(store, recorded_config(store), keep_phases=keep)
        if not dry_run:
            remove(store, old[store.run])
    reports = {store.run: store.gc(dry_run=dry_run, grace_s=grace_s) for store in stores}
    if as_json:
        print_json(
            {
                run: {"versions": old[run], "objects": len(r.keys), "bytes": r.num_bytes, "keys": r.keys}
                for run, r in reports.items()
            }
        )
        return
    verb = "would remove" if dry_run else "removed"
    for run, report in reports.items():
        for series, versions in old[run].items():
            typer.echo(f"{run}: {verb} {len(versions)} {series} ({', '.join(map(str, versions)) or 'all are needed'})")
        typer.echo(f"{run}: {verb} {len(report.keys)} objects, {file_size(report.num_bytes)}")
        if dry_run:
            for key in report.keys:
                typer.echo(f"  {key}")


@app.command()
def verify(where: RunOrStore, as_json: AsJson = False) -> None:
    """Check every byte of every version against its digest; exit code 1 if something is wrong."""
    from aplt.deploy.display import print_json

    problems = {store.run: store.verify() for store in _stores(where)}
    if as_json:
        print_json(problems)
    else:
        for run, found in problems.items():
            typer.echo(f"{run}: {f'{len(found)} problems' if found else 'all versions are intact'}")
            for problem in found:
                typer.echo(f"  {problem}")
    if any(problems.values()):
        raise typer.Exit(1)


@app.command()
def repair(
    where: Run, yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove what is damaged without asking.")] = False
) -> None:
    """Remove what is damaged, after saying what; the services make it again, to the bit, when they next run."""
    from aplt.deploy.repair import find_damage, remove_damage
    from aplt.deploy.runs import locate_run, refuse_if_working

    store = locate_run(where)
    refuse_if_working(store, f"Stop it first: `aplt stop all {where}`")
    damage = find_damage(store)
    if not damage:
        typer.echo(f"{store.run}: nothing is damaged")
        return
    for item in damage:
        typer.echo(f"{item.name}: {item.reason}; {item.cure}")
    if not yes and not typer.confirm(f"Remove these {len(damage)} from {store.url}/{store.run}?"):
        raise typer.Exit(1)
    remove_damage(store, damage)
    typer.echo(f"{store.run}: {len(damage)} removed. Start trainer and labeler again, which make anew what is missing")


def _stores(where: str) -> list[ArtifactStore]:
    """Return the run that `where` names, or all runs of the store that it names.

    Raises:
        RunError: it names neither.
    """
    from aplt.common.errors import RunError
    from aplt.common.store import ArtifactStore
    from aplt.deploy.runs import find_run, runs_in

    try:
        return [find_run(where)[0]]
    except RunError as error:
        runs = [] if where.endswith((".yaml", ".yml")) else runs_in(where)
        if not runs:
            raise RunError(f"{error}; nor is {where} a store with runs") from None
        return [ArtifactStore(where, run) for run in runs]
