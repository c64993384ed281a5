"""Real Ray: launching, watching, killing actors, stopping and restarting either side."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aplt.common.service import ROLES, Role, is_alive, process_exists, read_status
from aplt.common.store import ArtifactStore

pytestmark = [pytest.mark.slow, pytest.mark.ray]
WriteConfig = Callable[..., Path]
Services = Any


@pytest.fixture
def launched(services: Services) -> Iterator[list[ArtifactStore]]:
    """Runs whose local cluster is ended, by the process id of its host, should a test leave it."""
    stores: list[ArtifactStore] = []
    yield stores
    for store in stores:
        cluster = store.read_json("services/cluster.json")
        if cluster is not None and process_exists(cluster):
            os.kill(cluster["pid"], signal.SIGTERM)
            services.wait_for(lambda cluster=cluster: not process_exists(cluster))


def pid_of(store: ArtifactStore, role: Role) -> int | None:
    status = read_status(store, role)
    return None if status is None or status.ended or not is_alive(status) else status.pid


def claim_of(store: ArtifactStore, role: Role) -> int:
    status = read_status(store, role)
    return 0 if status is None else status.claim


def test_a_run_that_was_killed_restarted_stopped_and_resumed_is_the_same_run(
    services: Services, write_config: WriteConfig, launched: list[ArtifactStore]
) -> None:
    path = write_config(schedule={"warmup_epochs": 20, "epochs": 40, "phase_epochs": 20})
    expected = services.contents(services.run(path, "run=undisturbed"))

    store = services.store(path)
    launched.append(store)
    services.finish(services.command("launch", "--cluster", str(path), "--detach"))
    services.wait_for(lambda: store.evaluations.exists(1))
    for role in ROLES:
        pid = pid_of(store, role)
        assert pid is not None, f"the {role} was through before it could be killed"
        os.kill(pid, signal.SIGKILL)
    services.wait_for(lambda: {claim_of(store, role) for role in ROLES} == {2})  # Ray has started both again
    services.finish(services.command("stop", "all", str(store.local_path)))
    attached = services.command("launch", "--cluster", str(path), "--resume")
    services.finish(attached)

    assert services.contents(store) == expected
    assert "prototypes" in services.said(attached)
    for role in ROLES:
        status = read_status(store, role)
        assert status is not None
        assert (status.state, status.claim) == ("finished", 3)
    cluster = store.read_json("services/cluster.json")
    assert cluster is not None
    services.wait_for(lambda: not process_exists(cluster))

    again = services.command("launch", "--cluster", str(path))
    assert again.wait(120) == 1
    assert "--resume" in services.said(again)
    assert "Traceback" not in services.said(again)


def test_either_side_is_stopped_and_restarted_alone(
    services: Services, write_config: WriteConfig, launched: list[ArtifactStore]
) -> None:
    path = write_config(
        schedule={"warmup_epochs": 2, "epochs": 5000, "phase_epochs": 2}, trainer={"keep_checkpoints": "needed"}
    )
    store = services.store(path)
    launched.append(store)
    services.finish(services.command("launch", "--cluster", str(path), "--detach"))
    services.wait_for(lambda: store.labels.exists(1))
    run = str(store.local_path)

    services.finish(services.command("stop", "trainer", run))
    stopped, labeler = read_status(store, "trainer"), read_status(store, "labeler")
    assert stopped is not None
    assert stopped.state == "stopped"
    assert labeler is not None
    assert not labeler.ended

    services.finish(services.command("restart", "trainer", run))
    services.finish(services.command("restart", "labeler", run))
    newest = store.labels.versions()[-1]
    services.wait_for(lambda: store.labels.exists(newest + 2))
    assert {pid_of(store, role) for role in ROLES}.isdisjoint({stopped.pid, labeler.pid, None})

    services.finish(services.command("stop", "all", run))
    assert [pid_of(store, role) for role in ROLES] == [None, None]
    cluster = store.read_json("services/cluster.json")
    assert cluster is not None
    services.wait_for(lambda: not process_exists(cluster))
    assert store.labels.versions() == list(range(1, store.labels.versions()[-1] + 1))
    assert store.verify() == []
