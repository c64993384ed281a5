"""Starting, watching, stopping and restarting a run: the commands behind `aplt launch`, `attach`, `stop`, `restart`."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Literal

from rich.console import Console

from aplt.common.errors import RunError
from aplt.common.service import ROLES, Role, is_alive, process_exists, read_status, request_stop
from aplt.common.store import ArtifactStore
from aplt.deploy.config import RunConfig
from aplt.deploy.display import messages
from aplt.deploy.following import announce_start, follow
from aplt.deploy.local import cluster_lock, cluster_record, local_cluster, start_host
from aplt.deploy.prepare import prepare_if_needed
from aplt.deploy.runs import RECORD, create_or_resume, open_store, records_folder, refuse_if_working, run_url

Who = Literal["trainer", "labeler", "all"]
GRACE_S = 60.0
"""A service that was asked to stop and has not after so long is killed."""


def launch(config: RunConfig, *, resume: bool, attach: bool) -> None:
    """Prepare what is missing, start both services on Ray, and follow them.

    Raises:
        RunError: the run name is taken, the run is at work already, the cluster cannot be reached, or a service failed.
    """
    store = open_store(config)
    if store.read_json(RECORD) is not None:
        create_or_resume(config, resume=resume)  # refuses a used name before hours of preparation, not after
        refuse_if_working(store, "Watch it with `aplt attach`")
    prepare_if_needed(config, messages())
    create_or_resume(config, resume=resume)
    start(config, ROLES)
    where = run_url(config)
    messages().print(f"[bold]{where}[/bold]: trainer and labeler are at work; logs: {records_folder(config)}/*.log")
    if attach:
        follow(store, config)
    else:
        messages().print(f"Watch them with `aplt attach {where}`")


def start(config: RunConfig, roles: tuple[Role, ...]) -> None:
    """Start services on the cluster that the configuration names, or on the run's own local one."""
    from aplt.deploy.cluster import connected, start_services  # Ray takes a second to import

    store = open_store(config)
    with cluster_lock(config, wait=True):  # a local cluster cannot end between these lines
        refuse_if_working(store, "Watch it with `aplt attach`", roles)
        announce_start(store, roles)
        address = local_cluster(store) if config.cluster.address == "local" else config.cluster.address
        if address is None:
            start_cluster(config, roles)
            return
        with connected(address):
            start_services(config, roles)


def start_cluster(config: RunConfig, roles: tuple[Role, ...]) -> None:
    """Start the host process of a local cluster, and return when the services are up.

    Raises:
        RunError: it could not start; the message names its log.
    """
    log = records_folder(config) / "host.log"
    process = start_host("aplt.deploy.host", log)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"config": config.model_dump(mode="json"), "roles": roles}).encode())
    process.stdin.close()
    with messages().status("starting a local Ray cluster"):
        line = process.stdout.readline()
    answer = json.loads(line) if line else {"error": f"the host process ended with code {process.wait()}"}
    if "error" in answer:
        raise RunError(f"{answer['error']} (its log: {log})")


def stop(store: ArtifactStore, config: RunConfig, who: Who, *, grace_s: float = GRACE_S) -> None:
    """Ask services to stop, wait until they have, and kill those that do not."""
    roles = roles_of(who)
    asked = {role: status for role in roles if (status := request_stop(store, role)) is not None}
    between_starts = end_actors(store, config, tuple(role for role in roles if role not in asked))
    for role in between_starts:
        messages().print(f"{role} of run {store.run} was about to be started again or to end; it is gone now")
    if not asked:
        if not between_starts:
            messages().print(f"no {' or '.join(roles)} of run {store.run} is at work")
        return
    deadline = time.monotonic() + grace_s
    for role, before in asked.items():
        while (now := read_status(store, role)) is not None and not now.ended and is_alive(before) is not False:
            if time.monotonic() > deadline:
                kill(store, config, role)
                break
            time.sleep(0.1)
        messages().print(f"{role} of run {store.run} stopped")
    _wait_for_actors(store, config, tuple(asked))


def kill(store: ArtifactStore, config: RunConfig, role: Role) -> None:
    """End a service that does not answer: its actor, and its process if it is on this machine."""
    end_actors(store, config, (role,))
    status = read_status(store, role)
    if status is not None and not status.ended and is_alive(status):
        os.kill(status.pid, signal.SIGKILL)
    messages().print(f"{role} of run {store.run} did not answer and was killed; nothing published is lost")


def end_actors(store: ArtifactStore, config: RunConfig, roles: tuple[Role, ...]) -> list[Role]:
    """End the actors of `roles` on the run's cluster, if it has any; returns those that were there."""
    address = local_cluster(store) if config.cluster.address == "local" else config.cluster.address
    if address is None or not roles:
        return []
    from aplt.deploy.cluster import NoClusterError, connected, kill_service

    try:
        with connected(address):
            return [role for role in roles if kill_service(config, role)]
    except NoClusterError:
        return []  # a cluster that is gone starts nothing again


def restart(store: ArtifactStore, config: RunConfig, who: Who) -> None:
    """Stop services if they are at work and start them again; they go on from what the store holds."""
    stop(store, config, who)
    start(config, roles_of(who))
    messages().print(f"{' and '.join(roles_of(who))} of run {store.run} started")


def roles_of(who: Who) -> tuple[Role, ...]:
    """Return the roles that a word on the command line means."""
    return ROLES if who == "all" else (who,)


def _wait_for_actors(store: ArtifactStore, config: RunConfig, roles: tuple[Role, ...]) -> None:
    """Return when the actors of stopped services are gone, so that they can be started again at once."""
    local = config.cluster.address == "local"
    address = local_cluster(store) if local else config.cluster.address
    cluster = cluster_record(store) if local else None
    if cluster is not None and set(roles) == set(ROLES):
        deadline = time.monotonic() + GRACE_S
        while process_exists(cluster) and time.monotonic() < deadline:
            time.sleep(0.1)
    elif address is not None:
        from aplt.deploy.cluster import NoClusterError, connected, wait_until_gone

        try:
            with connected(address):
                wait_until_gone(config, roles, timeout_s=GRACE_S)
        except NoClusterError:
            return  # and its actors with it


def list_runs(url: str, console: Console) -> None:
    """Print the runs in a store with the state of their services."""
    for run in ArtifactStore.runs(url):
        store = ArtifactStore(url, run)
        states = [status.describe() for role in ROLES if (status := read_status(store, role)) is not None]
        console.print(f"[bold]{Path(url) / run}[/bold]  " + "; ".join(states))
