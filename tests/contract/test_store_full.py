"""A disk that fills up in the middle of something: one line, nothing lost, and all well once there is space again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from aplt.common import service
from aplt.common.artifacts import Checkpoint
from aplt.common.errors import StoreError
from aplt.common.manifest import Provenance
from aplt.common.records import MetricLog
from aplt.common.store import ArtifactStore

KB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"only root may mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def fill(disk: Path) -> Callable[[], Path]:
    """Write a file that takes all the space that is left; whoever removes it frees the space."""

    def write() -> Path:
        path = disk / "fill"
        with path.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * KB) == KB:
                    pass
            except OSError:
                pass
        return path

    return write


def checkpoint(epoch: int, num_bytes: int) -> Checkpoint:
    return Checkpoint(epoch=epoch, weights={"w": np.zeros(num_bytes // 4, np.float32)}, state={})


def test_a_disk_that_fills_up_while_publishing(disk: Path, provenance: Provenance) -> None:
    store = ArtifactStore(str(disk / "runs"), "demo")
    first = store.checkpoints.publish(checkpoint(1, 400 * KB), version=1, provenance=provenance)
    with pytest.raises(StoreError) as error:
        store.checkpoints.publish(checkpoint(2, 800 * KB), version=2, provenance=provenance)
    (message,) = error.value.args
    assert message.startswith("Cannot write demo/checkpoints/v000002/")
    assert "No space left on device" in message
    assert "free some disk space and start again: nothing that was finished is lost" in message
    assert "\n" not in message
    assert store.checkpoints.latest() == first
    assert store.verify() == []
    subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
    store.checkpoints.publish(checkpoint(2, 800 * KB), version=2, provenance=provenance)
    store.gc(grace_s=0)  # what the failed attempt may have left
    assert len(store.list_names("checkpoints/v000002")) == 1 + len(store.checkpoints.manifest(2).objects)
    assert store.checkpoints.versions() == [1, 2]
    assert store.verify() == []


def test_a_full_disk_costs_a_service_no_more_than_heartbeats(
    disk: Path, fill: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "BEAT_S", 0.01)
    store = ArtifactStore(str(disk / "runs"), "demo")

    def beats() -> int:
        status = service.read_status(store, "trainer")
        assert status is not None
        return status.beat

    with service.RoleClaim(store, "trainer") as claim:
        while beats() < 2:
            claim.check()
        filled = fill()
        while "heartbeat of the trainer failed, trying again: Cannot write" not in caplog.text:
            claim.check()
        last = beats()
        filled.unlink()
        while beats() <= last:
            claim.check()
    status = service.read_status(store, "trainer")
    assert status is not None
    assert status.state == "finished"


def test_records_that_find_no_space(disk: Path, fill: Callable[[], Path]) -> None:
    with MetricLog(disk / "records", "trainer", claim=1) as log:
        log.write("epoch", 1, loss=1.0)
    filled = fill()
    with (
        pytest.raises(StoreError, match=r"Cannot write the records in .*No space left on device; free some disk space"),
        MetricLog(disk / "records", "trainer", claim=2) as log,
    ):
        for epoch in range(2, 200):
            log.write("epoch", epoch, loss=1.0)
    filled.unlink()
    with MetricLog(disk / "records", "trainer", claim=3) as log:
        log.write("epoch", 300, loss=1.0)
    lines = (disk / "records" / "trainer.jsonl").read_text().splitlines()
    assert '"epoch": 1,' in lines[0]
    assert '"epoch": 300,' in lines[-1]


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    writer = """
import resource, sys
import numpy as np
from aplt.common.artifacts import Checkpoint
from aplt.common.errors import StoreError
from aplt.common.manifest import Provenance
from aplt.common.store import ArtifactStore
who = Provenance(role="trainer", host="h", pid=1, config_digest="d", code_version="v", created_at="t")
value = Checkpoint(epoch=1, weights={"w": np.zeros(100_000, np.float32)}, state={})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    ArtifactStore(sys.argv[1], "demo").checkpoints.publish(value, version=1, provenance=who)
except StoreError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", writer, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    store = ArtifactStore(str(tmp_path), "demo")
    assert store.checkpoints.versions() == []
    store.gc(grace_s=0)
    assert store.list_names() == []
