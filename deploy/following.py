"""Watching a run from its store: bars while it works, the summary when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from aplt.common.config import Head
from aplt.common.errors import RunError
from aplt.common.service import ROLES, Role, Status, is_alive, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy.config import RunConfig
from aplt.deploy.display import messages, number, output, percent
from aplt.deploy.local import cluster_record, local_cluster
from aplt.deploy.runs import records_folder, run_url
from aplt.deploy.versions import list_versions

STARTS = "services/starts.json"
POLL_S = 0.5
LOST_S = 20.0
"""A service without a process for so long was not restarted by anybody."""


def announce_start(store: ArtifactStore, roles: tuple[Role, ...]) -> None:
    """Note that new processes are about to take these roles: what earlier ones said when they ended is over."""
    past = store.read_note(STARTS)
    for role in roles:
        status = read_status(store, role)
        past[role] = 0 if status is None else status.claim
    store.write_json(STARTS, past)


def present_status(store: ArtifactStore, role: Role) -> Status | None:
    """Return what the process says that holds `role` or held it last; None while a new one is starting."""
    status = read_status(store, role)
    past = store.read_note(STARTS).get(role, 0)
    return None if status is None or status.claim <= past else status


def follow(store: ArtifactStore, config: RunConfig) -> None:
    """Show progress until both services are over; Ctrl-C leaves them working and says how to come back.

    Raises:
        RunError: a service failed, was stopped, or died and was not restarted.
    """
    where = run_url(config)
    try:
        _watch(store, config, messages())
    except KeyboardInterrupt:
        messages().print(
            f"\nThe run goes on without this window. Come back with `aplt attach {where}`, "
            f"end it with `aplt stop all {where}`"
        )
        raise
    error = what_went_wrong(store, config)
    if error is not None:
        raise error
    from aplt.deploy.summary import print_summary  # it draws too, which takes a second to import

    print_summary(store, output())


def what_went_wrong(store: ArtifactStore, config: RunConfig) -> RunError | None:
    """Return why a run that is not at work is not finished either, with the exit code of the service that failed."""
    statuses = {role: present_status(store, role) for role in ROLES}
    unfinished = [
        f"{role} did not start" if status is None else f"{role} {status.fate} ({status.doing})"
        for role, status in statuses.items()
        if status is None or status.state != "finished"
    ]
    if not unfinished:
        return None
    ended = (cluster_record(store) or {}).get("ended", "")
    why = f" ({ended})" if "unexpectedly" in ended else ""
    error = RunError(
        f"run {store.run} is not finished{why}: {', '.join(unfinished)}. Go on with `aplt launch --resume --cluster "
        f"...`; logs: {records_folder(config)}"
    )
    error.exit_code = max([1, *(status.exit_code for status in statuses.values() if status is not None)])
    return error


def show_status(store: ArtifactStore, config: RunConfig, console: Console) -> None:
    """Print once what both services do and which labels there are."""
    console.print(f"[bold]{run_url(config)}[/bold]")
    console.print(_picture(store, config.method.tested_head))
    statuses = [present_status(store, role) for role in ROLES]
    if not any(_at_work(status) for status in statuses) and not _starting(store, statuses):
        error = what_went_wrong(store, config)
        if error is not None:
            console.print(str(error), markup=False)


def status_values(store: ArtifactStore) -> dict[str, object]:
    """Return the state of a run for programs."""
    statuses = {role: present_status(store, role) for role in ROLES}
    return {
        "run": store.run,
        "services": {
            role: None
            if status is None
            else {
                **status.model_dump(mode="json"),
                "alive": is_alive(status),
                "fate": status.fate,
            }
            for role, status in statuses.items()
        },
        "labels": store.labels.versions(),
        "checkpoints": store.checkpoints.versions(),
        "evaluations": store.evaluations.versions(),
    }


def _watch(store: ArtifactStore, config: RunConfig, console: Console) -> None:
    if console.is_terminal:
        with Live(_picture(store, config.method.tested_head), console=console, refresh_per_second=4) as live:
            _until_over(store, config, lambda: live.update(_picture(store, config.method.tested_head)))
    else:
        said: dict[Role, str] = {}
        _until_over(store, config, lambda: _say_changes(store, console, said))


def _until_over(store: ArtifactStore, config: RunConfig, show: Callable[[], None]) -> None:
    """Call `show` again and again until no service is at work any more."""
    lost_since: float | None = None
    while True:
        show()
        statuses = [present_status(store, role) for role in ROLES]
        if all(status is not None and status.ended for status in statuses):
            return
        if any(_at_work(status) for status in statuses) or _starting(store, statuses):
            lost_since = None
        elif lost_since is None:
            lost_since = time.monotonic()
        elif time.monotonic() - lost_since > (0 if _nobody_restarts(store, config, statuses) else LOST_S):
            return
        time.sleep(POLL_S)


def _at_work(status: Status | None) -> bool:
    """Whether a service is, or may be (on another machine), at work."""
    return status is not None and not status.ended and is_alive(status) is not False


def _starting(store: ArtifactStore, statuses: list[Status | None]) -> bool:
    """Whether a service has not spoken yet, or is between death and restart, while its cluster lives."""
    return any(status is None or not status.ended for status in statuses) and local_cluster(store) is not None


def _nobody_restarts(store: ArtifactStore, config: RunConfig, statuses: list[Status | None]) -> bool:
    """Whether the services ran on a local cluster that is gone, and nobody is starting another one."""
    cluster = cluster_record(store) if config.cluster.address == "local" else None
    return cluster is not None and local_cluster(store) is None and None not in statuses


def _picture(store: ArtifactStore, tested: Head) -> RenderableType:
    services = Table.grid(padding=(0, 2))
    for role in ROLES:
        status = present_status(store, role)
        if status is None:
            services.add_row(role, ProgressBar(total=1, completed=0, width=30), "", "starting")
            continue
        colour = {"waiting": "yellow", "failed": "red", "stopped": "red", "finished": "green"}.get(status.state, "cyan")
        services.add_row(
            role,
            ProgressBar(total=1, completed=status.done, width=30),
            f"{100 * status.done:3.0f} %",
            f"[{colour}]{_fate(status)}[/{colour}] {status.doing}",
        )
    versions = list_versions(store)
    if not versions:
        return services
    table = Table("labels", "from epoch", "kept", "r", "precision", "test accuracy", box=None, padding=(0, 2))
    for row in versions:
        table.add_row(
            f"v{row['version']}",
            str(row["epoch"]),
            percent(row["kept_share"]),
            number(row["ratio"]),
            percent(row["precision"]),
            percent(row[f"{tested}_accuracy"]),
        )
    return Group(services, table)


def _say_changes(store: ArtifactStore, console: Console, said: dict[Role, str]) -> None:
    for role in ROLES:
        status = present_status(store, role)
        if status is None:
            continue
        what = f"{_fate(status)} {status.doing}"
        if said.get(role) != what:
            said[role] = what
            console.print(f"{role:8s} {100 * status.done:3.0f} %  {what}", markup=False)


def _fate(status: Status) -> str:
    return status.state if status.fate == status.state else f"{status.fate}, was {status.state}"
