"""Real Ray: launching, watching, killing services and Ray itself, stopping and restarting either side."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aplt.common.service import ROLES, Role, is_alive, process_exists, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy.local import cluster_record

pytestmark = [pytest.mark.slow, pytest.mark.ray]
WriteConfig = Callable[..., Path]
Undisturbed = Callable[[Path], ArtifactStore]
Services = Any
LONG_ENOUGH = {"warmup_epochs": 10, "epochs": 20, "phase_epochs": 10}
ENDLESS = {"warmup_epochs": 2, "epochs": 5000, "phase_epochs": 2}


@pytest.fixture
def launched(services: Services) -> Iterator[list[ArtifactStore]]:
    """Runs whose local cluster is ended, by the process id of its host, should a test leave it."""
    stores: list[ArtifactStore] = []
    yield stores
    for store in stores:
        cluster = cluster_record(store)
        if cluster is not None and process_exists(cluster):
            os.kill(cluster["pid"], signal.SIGKILL)
            services.wait_for(lambda cluster=cluster: not members(cluster["pid"]))


def pid_of(store: ArtifactStore, role: Role) -> int | None:
    status = read_status(store, role)
    return None if status is None or status.ended or not is_alive(status) else status.pid


def claims(store: ArtifactStore) -> set[int]:
    statuses = [read_status(store, role) for role in ROLES]
    return {0 if status is None else status.claim for status in statuses}


def host_of(store: ArtifactStore) -> int:
    cluster = cluster_record(store)
    assert cluster is not None
    return int(cluster["pid"])


def members(session: int) -> dict[int, str]:
    """The living processes of a session and their names: a local cluster is the session of its host."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, rest = (entry / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            except (FileNotFoundError, ProcessLookupError):
                continue
            fields = rest.split()
            if int(fields[3]) == session and fields[0] != "Z":
                found[int(entry.name)] = name
    return found


def listening(pid: int) -> list[str]:
    """The addresses, as the kernel writes them, on which a process listens."""
    sockets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    return [
        fields[1]
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets
    ]


def on_loopback(address: str) -> bool:
    """Whether this is 127.0.0.0/8, ::1, or 127.0.0.0/8 written as IPv6; 32-bit words are in the host's byte order."""
    words = bytes.fromhex(address.split(":")[0])
    packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    text = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
    return text == "::1" or text.removeprefix("::ffff:").startswith("127.")


def kill_both(store: ArtifactStore) -> None:
    for role in ROLES:
        pid = pid_of(store, role)
        assert pid is not None, f"the {role} was through before it could be killed"
        os.kill(pid, signal.SIGKILL)


def refused(services: Services, code: int, *arguments: str) -> str:
    """What a command says that must fail; it is one line."""
    process = services.command(*arguments)
    assert process.wait(240) == code, services.said(process)
    said = [line for line in services.said(process).splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "Traceback" not in services.said(process)
    return said[0]


def test_a_run_whose_services_and_whose_ray_are_killed_is_the_same_run(
    services: Services, write_config: WriteConfig, undisturbed: Undisturbed, launched: list[ArtifactStore]
) -> None:
    path = write_config(schedule=LONG_ENOUGH)
    expected = services.contents(undisturbed(path))

    store = services.store(path)
    launched.append(store)
    services.finish(services.command("launch", "--cluster", str(path), "--detach"))
    host = host_of(store)
    services.wait_for(lambda: store.evaluations.exists(1))
    kill_both(store)
    services.wait_for(lambda: claims(store) == {2})  # Ray has started both again
    kill_both(store)  # while they recover
    services.wait_for(lambda: claims(store) == {3})

    os.kill(host, signal.SIGKILL)
    services.wait_for(lambda: not members(host))
    assert "trainer died" in refused(services, 1, "attach", str(store.local_path))
    assert "--resume" in refused(services, 1, "launch", "--cluster", str(path))
    stopped = services.command("stop", "all", str(store.local_path))
    services.finish(stopped)
    assert services.said(stopped) == "no trainer or labeler of run run is at work\n"

    attached = services.command("launch", "--cluster", str(path), "--resume")
    services.finish(attached)
    assert services.contents(store) == expected
    assert "prototypes" in services.said(attached)
    for role in ROLES:
        status = read_status(store, role)
        assert status is not None
        assert (status.state, status.claim) == ("finished", 4)
    services.wait_for(lambda: not members(host_of(store)))


def test_a_local_cluster_listens_on_loopback_alone_and_asks_for_its_token(
    services: Services, write_config: WriteConfig, launched: list[ArtifactStore], tmp_path: Path
) -> None:
    path = write_config(schedule=ENDLESS, trainer={"keep_checkpoints": "needed"})
    store = services.store(path)
    launched.append(store)
    services.finish(services.command("launch", "--cluster", str(path), "--detach"))
    cluster = members(host_of(store))
    assert {"raylet", "gcs_server"} <= set(cluster.values())
    assert [(name, listening(pid)) for pid, name in cluster.items() if not all(map(on_loopback, listening(pid)))] == []
    assert any(listening(pid) for pid in cluster)

    with (tmp_path / "stranger.log").open("wb") as log:
        stranger = subprocess.Popen(
            [sys.executable, "-c", f"import ray; ray.init({cluster_record(store)['address']!r})"],
            env={"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
            stdout=log,
            stderr=log,
        )
    assert stranger.wait(120) != 0
    assert "InvalidAuthToken" in (tmp_path / "stranger.log").read_text()


def test_either_side_is_stopped_and_restarted_alone(
    services: Services, write_config: WriteConfig, launched: list[ArtifactStore]
) -> None:
    path = write_config(schedule=ENDLESS, trainer={"keep_checkpoints": "needed"})
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

    first = host_of(store)
    stopping = services.command("stop", "all", run)
    services.wait_for(lambda: [pid_of(store, role) for role in ROLES] == [None, None])
    services.finish(services.command("restart", "labeler", run), stopping)  # meets the cluster that is about to end
    services.wait_for(lambda: pid_of(store, "labeler") is not None)
    services.finish(services.command("restart", "trainer", run))
    newest = store.labels.versions()[-1]
    services.wait_for(lambda: store.labels.exists(newest + 1))

    host = host_of(store)
    os.kill(next(pid for pid, name in members(host).items() if name == "gcs_server"), signal.SIGKILL)
    services.wait_for(lambda: not members(host) and not members(first))
    assert "gcs_server ended unexpectedly" in refused(services, 1, "attach", run)
    assert store.labels.versions() == list(range(1, store.labels.versions()[-1] + 1))
    assert store.verify() == []


def test_a_service_that_fails_ends_the_run_and_says_why(
    services: Services, write_config: WriteConfig, launched: list[ArtifactStore]
) -> None:
    path = write_config(trainer={"device": "cuda:99"})
    store = services.store(path)
    launched.append(store)
    said = refused(services, 2, "launch", "--cluster", str(path))
    assert "trainer failed (ConfigError: device 'cuda:99' is not here" in said
    assert "labeler stopped" in said
    assert "is not here" in (store.local_path / "records" / "trainer.log").read_text()
    services.wait_for(lambda: not members(host_of(store)))


def test_a_cluster_that_was_joined_dies_and_comes_back(
    services: Services, write_config: WriteConfig, undisturbed: Undisturbed
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = write_config(schedule=LONG_ENOUGH, cluster={"address": f"127.0.0.1:{port}"})
    expected = services.contents(undisturbed(path))
    store = services.store(path)

    ray = start_ray(port)
    try:
        services.finish(services.command("launch", "--cluster", str(path), "--detach"))
        services.wait_for(lambda: store.checkpoints.exists(1))
        end_ray(services, ray)
        assert "trainer died" in refused(services, 1, "attach", str(store.local_path))
        assert "no Ray cluster answers" in refused(services, 1, "launch", "--cluster", str(path), "--resume")
        stopped = services.command("stop", "all", str(store.local_path))
        services.finish(stopped)
        assert services.said(stopped) == "no trainer or labeler of run run is at work\n"
        ray = start_ray(port)
        services.finish(services.command("launch", "--cluster", str(path), "--resume"))
    finally:
        end_ray(services, ray)
    assert services.contents(store) == expected


def start_ray(port: int) -> subprocess.Popen[bytes]:
    """Start a cluster as its owner would, in a session of its own."""
    token = Path.home() / ".ray" / "auth_token"
    if not token.exists():
        token.parent.mkdir(exist_ok=True)
        token.write_text("0123456789abcdef" * 4)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return subprocess.Popen(
        [*command, "--include-dashboard=false", "--num-cpus=2"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_ray(services: Services, ray: subprocess.Popen[bytes]) -> None:
    """Kill every process of a cluster that `start_ray` started."""
    for pid in [*members(ray.pid)]:
        os.kill(pid, signal.SIGKILL)
    ray.wait()
    services.wait_for(lambda: not members(ray.pid))
