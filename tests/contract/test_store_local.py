"""What is special to a store on local disk."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import zarr

from aplt.common.artifacts import Checkpoint
from aplt.common.errors import ArtifactTimeoutError, CorruptArtifactError, StoreError
from aplt.common.manifest import Provenance, describe_object, write_manifest
from aplt.common.series import Series
from aplt.common.store import ArtifactStore


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "runs"), "demo")


def tiny_checkpoint() -> Checkpoint:
    return Checkpoint(epoch=1, weights={"w": np.zeros(3, np.float32)}, state={})


def test_plain_zarr_opens_a_label_version(
    local: ArtifactStore, records: dict[str, Any], provenance: Provenance
) -> None:
    local.labels.publish(records["labels"], version=3, provenance=provenance)
    assert local.local_path is not None
    (path,) = local.local_path.glob("labels/v000003/*/data.zarr")
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    rows = group["rows_N"]
    assert isinstance(rows, zarr.Array)
    np.testing.assert_array_equal(rows[...], records["labels"].rows_N)
    # All false, yet stored: a reader can ask Zarr to refuse a lost chunk.
    assert (path / "kept_N" / "c" / "0").stat().st_size == len(records["labels"].rows_N)


def test_large_arrays_are_chunked(local: ArtifactStore, provenance: Provenance, records: dict[str, Any]) -> None:
    rows = 3 * 2**20
    snapshot = type(records["features"])(
        epoch=1,
        rows_N=np.arange(rows, dtype=np.int32),
        features_ND=np.arange(2 * rows, dtype=np.float32).reshape(rows, 2),
        labels_N=np.zeros(rows, np.int16),
    )
    local.features.publish(snapshot, version=1, provenance=provenance)
    sizes = {name: entry.bytes for name, entry in local.features.manifest(1).objects.items()}
    assert sizes["data.zarr/features_ND/c/0/0"] == sizes["data.zarr/features_ND/c/1/0"] == 16 * 2**20
    np.testing.assert_array_equal(local.features.load(1).features_ND, snapshot.features_ND)


def test_a_relative_path_stays_where_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provenance: Provenance
) -> None:
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore("some/runs", "demo")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.checkpoints.publish(tiny_checkpoint(), version=1, provenance=provenance)
    assert store.url == str(tmp_path / "some" / "runs")
    assert (tmp_path / "some/runs/demo/checkpoints/v000001/manifest.json").is_file()
    assert ArtifactStore(f"file://{tmp_path}/some/runs", "demo").checkpoints.versions() == [1]


def test_listing_runs_creates_nothing(tmp_path: Path) -> None:
    assert ArtifactStore.runs(str(tmp_path / "typo")) == []
    assert not (tmp_path / "typo").exists()


def test_of_racing_processes_exactly_one_wins(local: ArtifactStore) -> None:
    writer = """
import sys
import numpy as np
from aplt.common.artifacts import Checkpoint
from aplt.common.errors import VersionExistsError
from aplt.common.manifest import Provenance
from aplt.common.series import Series
from aplt.common.store import ArtifactStore
url, name = sys.argv[1:]
checkpoints = ArtifactStore(url, "demo").checkpoints
who = Provenance(role=name, host="h", pid=1, config_digest="d", code_version="v", created_at="t")
print("ready", flush=True)
sys.stdin.readline()
results = []
for epoch in range(20):
    value = Checkpoint(epoch=epoch, weights={"w": np.full(1000, float(name), np.float32)}, state={})
    try:
        checkpoints.publish(value, version=epoch, provenance=who)
        results.append("1")
    except VersionExistsError:
        results.append("0")
print("".join(results))
"""
    command = [sys.executable, "-c", writer, local.url]
    racers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("1", "2")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert [int(first) + int(second) for first, second in zip(*wins, strict=True)] == [1] * 20
    for epoch in range(20):
        winner = "1" if wins[0][epoch] == "1" else "2"
        assert local.checkpoints.manifest(epoch).provenance.role == winner
        assert local.checkpoints.load(epoch).weights["w"][0] == float(winner)
    local.gc(grace_s=0)
    assert local.verify() == []


def test_write_json_is_never_seen_half_written(local: ArtifactStore) -> None:
    values = [{"fill": letter * 50_000} for letter in "ab"]
    local.write_json("status.json", values[0])
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            local.write_json("status.json", values[number % 2])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    num_reads = 0
    while not done.is_set() or num_reads == 0:
        assert local.read_json("status.json") in values
        num_reads += 1
    thread.join()


def test_staging_files_of_a_killed_writer_are_collected(local: ArtifactStore, provenance: Provenance) -> None:
    local.checkpoints.publish(tiny_checkpoint(), version=1, provenance=provenance)
    assert local.local_path is not None
    staging = local.local_path / "checkpoints" / "v000002" / "someone" / "weights.safetensors#1"
    staging.parent.mkdir(parents=True)
    staging.write_bytes(b"half")
    assert local.checkpoints.versions() == [1]
    assert local.gc().keys == []
    report = local.gc(grace_s=0)
    assert (report.keys, report.num_bytes) == (
        ["demo/checkpoints/v000002/someone/weights.safetensors#1"],
        4,
    )
    assert not staging.parent.parent.exists()
    assert local.checkpoints.versions() == [1]


def test_a_folder_that_a_killed_writer_left_empty_is_collected(local: ArtifactStore, provenance: Provenance) -> None:
    local.checkpoints.publish(tiny_checkpoint(), version=1, provenance=provenance)
    assert local.local_path is not None
    empty = local.local_path / "checkpoints" / "v000001" / "someone" / "state"
    empty.mkdir(parents=True)
    assert local.gc().keys == []
    assert local.gc(grace_s=0).keys == ["demo/checkpoints/v000001/someone/state"]
    assert not empty.parent.exists()
    assert local.checkpoints.load(1).epoch == 1


def test_a_young_object_keeps_its_whole_attempt(local: ArtifactStore) -> None:
    for name in ("old", "young"):
        local.write_bytes(f"labels/v000001/attempt/{name}", b"1")
    assert local.local_path is not None
    os.utime(local.local_path / "labels/v000001/attempt/old", (0, 0))
    assert local.gc().keys == []
    os.utime(local.local_path / "labels/v000001/attempt/young", (0, 0))
    assert len(local.gc().keys) == 2
    assert not (local.local_path / "labels").exists()


def test_every_byte_of_a_manifest_counts(local: ArtifactStore, provenance: Provenance) -> None:
    local.checkpoints.publish(tiny_checkpoint(), version=1, summary={"kept": 0.5}, provenance=provenance)
    name = "checkpoints/v000001/manifest.json"
    intact = local.read_bytes(name)
    assert intact is not None
    for place in range(len(intact)):
        for mask in (0x01, 0x80):
            local.write_bytes(name, intact[:place] + bytes([intact[place] ^ mask]) + intact[place + 1 :])
            with pytest.raises(StoreError, match=name):
                local.checkpoints.load(1)
    local.write_bytes(name, intact)
    assert local.checkpoints.load(1).epoch == 1


def test_a_version_folder_under_another_number_is_refused(local: ArtifactStore, provenance: Provenance) -> None:
    local.checkpoints.publish(tiny_checkpoint(), version=1, provenance=provenance)
    assert local.local_path is not None
    (local.local_path / "checkpoints/v000001").rename(local.local_path / "checkpoints/v000002")
    with pytest.raises(CorruptArtifactError, match="describes checkpoints version 1, expected checkpoints version 2"):
        local.checkpoints.load(2)


class Payload:
    """An object whose unpickling makes the test fail."""

    def __reduce__(self) -> tuple[Callable[[str], NoReturn], tuple[str]]:
        return pytest.fail, ("something was unpickled",)


def plant(series: Series[Any], store: ArtifactStore, objects: dict[str, bytes]) -> None:
    """Put these objects into version 3, with a manifest that promises them."""
    manifest = series.manifest(3)
    folder = f"{series.name}/v000003/{manifest.attempt}"
    entries = {name: entry for name, entry in manifest.objects.items() if not name.startswith("data.zarr/rows_N/")}
    for name, data in objects.items():
        store.write_bytes(f"{folder}/{name}", data)
        entries[name] = describe_object(data)
    changed = manifest.model_copy(update={"objects": entries})
    store.write_bytes(f"{series.name}/v000003/manifest.json", write_manifest(changed))


def test_nothing_is_unpickled(local: ArtifactStore, records: dict[str, Any], provenance: Provenance) -> None:
    """Digests are right, but weights are a pickle, or an array is Zarr format 2, which has a codec for pickles."""
    local.checkpoints.publish(records["checkpoints"], version=3, provenance=provenance)
    plant(local.checkpoints, local, {"weights.safetensors": pickle.dumps(Payload())})
    with pytest.raises(CorruptArtifactError, match="does not decode"):
        local.checkpoints.load(3)
    metadata = {
        "zarr_format": 2,
        "shape": [1],
        "chunks": [1],
        "dtype": "|O",
        "compressor": None,
        "fill_value": None,
        "filters": [{"id": "pickle", "protocol": 5}],
        "order": "C",
    }
    local.labels.publish(records["labels"], version=3, provenance=provenance)
    planted = {".zarray": json.dumps(metadata).encode(), "0": pickle.dumps(Payload())}
    plant(local.labels, local, {f"data.zarr/rows_N/{name}": data for name, data in planted.items()})
    with pytest.raises(CorruptArtifactError, match="does not decode"):
        local.labels.load(3)


def test_store_does_not_import_torch() -> None:
    code = "import sys, aplt.common.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_wait_starts_its_deadline_again_on_progress(local: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(ArtifactTimeoutError, match=r"Waited 25\.0 s, the last 10 s of it without any progress for"):
        local.labels.wait(1, timeout_s=10, poll_s=5, progress=lambda: min(now_s, 15) // 5)
