"""What every kind of store promises: local disk, memory and S3 run the same suite."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from threading import Barrier
from typing import Any

import numpy as np
import obstore
import pytest

from aplt.common.artifacts import ArtifactRef, Checkpoint
from aplt.common.errors import (
    ArtifactTimeoutError,
    CorruptArtifactError,
    MissingArtifactError,
    StoreError,
    VersionExistsError,
)
from aplt.common.manifest import ArtifactManifest, Provenance, write_manifest
from aplt.common.store import SERIES_NAMES, ArtifactStore

OpenStore = Callable[[str], ArtifactStore]
Records = dict[str, Any]


def checkpoint(epoch: int, fill: float = 0.0) -> Checkpoint:
    return Checkpoint(epoch=epoch, weights={"w": np.full(3, fill, np.float32)}, state={})


def assert_same(left: object, right: object, name: str) -> None:
    if isinstance(left, dict) and isinstance(right, dict):
        assert left.keys() == right.keys(), name
        for key in left:
            assert_same(left[key], right[key], f"{name}.{key}")
    elif isinstance(left, np.ndarray):
        assert isinstance(right, np.ndarray)
        assert (left.dtype, left.shape) == (right.dtype, right.shape), name
        np.testing.assert_array_equal(left, right, err_msg=name)
    else:
        assert (type(left), left) == (type(right), right), name


@pytest.mark.parametrize("series", SERIES_NAMES)
def test_a_loaded_record_equals_the_published_one(
    open_store: OpenStore, records: Records, provenance: Provenance, series: str
) -> None:
    getattr(open_store("demo"), series).publish(records[series], version=3, provenance=provenance)
    loaded = getattr(open_store("demo"), series).load(3)
    assert type(loaded) is type(records[series])
    for field in fields(loaded):
        assert_same(getattr(records[series], field.name), getattr(loaded, field.name), field.name)


def test_manifest_tells_everything_about_a_version(
    store: ArtifactStore, records: Records, provenance: Provenance
) -> None:
    parent = store.features.publish(records["features"], version=3, provenance=provenance)
    ref = store.labels.publish(
        records["labels"],
        version=3,
        parents=[parent],
        summary={"kept": 0.25, "per class": [1, 2]},
        provenance=provenance,
    )
    manifest = store.labels.manifest(3)
    assert (manifest.schema_number, manifest.series, manifest.version) == (1, "labels", 3)
    assert manifest.parents == (parent,)
    assert manifest.summary == {"kept": 0.25, "per class": [1, 2]}
    assert manifest.provenance == provenance
    assert manifest.scalars["global_threshold"] == 0.1 + 0.2
    assert "data.zarr/rows_N/c/0" in manifest.objects
    assert store.labels.ref(3) == ref == store.labels.latest()
    assert ref.digest.startswith("sha256:")
    assert store.verify() == []


def test_versions_ascend_and_latest_is_the_greatest_number(store: ArtifactStore, provenance: Provenance) -> None:
    assert store.checkpoints.versions() == []
    assert store.checkpoints.latest() is None
    assert not store.checkpoints.exists(2)
    for epoch in (10, 9, 2_000_000, 2):
        store.checkpoints.publish(checkpoint(epoch), version=epoch, provenance=provenance)
    assert store.checkpoints.versions() == [2, 9, 10, 2_000_000]
    latest = store.checkpoints.latest()
    assert latest is not None
    assert latest.version == 2_000_000
    assert store.checkpoints.exists(2)


def test_a_published_version_never_changes(open_store: OpenStore, provenance: Provenance) -> None:
    first, second = open_store("demo").checkpoints, open_store("demo").checkpoints
    ref = first.publish(checkpoint(1, 1.0), version=1, provenance=provenance)
    with pytest.raises(VersionExistsError, match=r"demo/checkpoints version 1 exists already"):
        second.publish(checkpoint(1, 2.0), version=1, provenance=provenance)
    assert second.ref(1) == ref
    assert second.load(1).weights["w"].tolist() == [1, 1, 1]


def test_of_racing_writers_exactly_one_wins(
    open_store: OpenStore, provenance: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_writers = 6
    stores = [open_store("demo") for _ in range(num_writers)]
    barrier = Barrier(num_writers)
    for store in stores:
        # All have looked, seen nothing and written their objects before the first creates its manifest.
        put_all = store._objects.put_all
        monkeypatch.setattr(store._objects, "put_all", lambda new, put_all=put_all: (put_all(new), barrier.wait(30)))

    def publish(number: int) -> ArtifactRef | None:
        try:
            value = checkpoint(1, float(number))
            return stores[number].checkpoints.publish(value, version=1, provenance=provenance)
        except VersionExistsError:
            return None

    with ThreadPoolExecutor(num_writers) as pool:
        refs = list(pool.map(publish, range(num_writers)))
    winners = [number for number, ref in enumerate(refs) if ref is not None]
    assert len(winners) == 1
    assert open_store("demo").checkpoints.ref(1) == refs[winners[0]]
    assert open_store("demo").checkpoints.load(1).weights["w"].tolist() == [winners[0]] * 3
    report = open_store("demo").gc(grace_s=0)
    assert len(report.keys) == 2 * (num_writers - 1)
    assert open_store("demo").verify() == []


def test_a_writer_that_slept_until_its_objects_were_collected_publishes_them_all(
    open_store: OpenStore, provenance: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version must never be complete without its weights, not even if a clock jumped or its writer was paused."""
    store = open_store("demo")
    create = store._objects.create

    def sleep_and_create(key: str, data: bytes) -> bool:
        assert len(open_store("demo").gc(grace_s=0).keys) == 2
        return create(key, data)

    monkeypatch.setattr(store._objects, "create", sleep_and_create)
    store.checkpoints.publish(checkpoint(1, 7.0), version=1, provenance=provenance)
    assert open_store("demo").checkpoints.load(1).weights["w"].tolist() == [7.0] * 3
    assert open_store("demo").gc(grace_s=0).keys == []
    assert open_store("demo").verify() == []


def test_a_retried_request_that_had_succeeded_still_wins(
    store: ArtifactStore, provenance: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = obstore.put

    def put_twice(store: Any, key: str, data: bytes, **options: Any) -> object:
        put(store, key, data, **options)
        return put(store, key, data, **options)

    monkeypatch.setattr(obstore, "put", put_twice)
    assert store.create_json("lock.json", {"owner": 1})
    assert not store.create_json("lock.json", {"owner": 2})
    ref = store.checkpoints.publish(checkpoint(1), version=1, provenance=provenance)
    assert store.checkpoints.latest() == ref


def test_a_half_written_attempt_is_invisible_until_collected(
    open_store: OpenStore, records: Records, provenance: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, dying = open_store("demo"), open_store("demo")
    store.labels.publish(records["labels"], version=3, provenance=provenance)

    def die(key: str, data: bytes) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(dying._objects, "create", die)
    with pytest.raises(KeyboardInterrupt):
        dying.checkpoints.publish(checkpoint(1), version=1, provenance=provenance)

    assert not store.checkpoints.exists(1)
    assert store.checkpoints.versions() == []
    assert store.checkpoints.latest() is None
    with pytest.raises(MissingArtifactError, match=r"no version 1 .*there: none"):
        store.checkpoints.load(1)
    assert store.gc(grace_s=3600).keys == []
    planned = store.gc(grace_s=0, dry_run=True)
    assert planned.dry_run
    assert {key.rpartition("/")[2] for key in planned.keys} == {"weights.safetensors", "state.safetensors"}
    assert store.list_names("checkpoints") != []
    done = store.gc(grace_s=0)
    assert (done.keys, done.num_bytes) == (planned.keys, planned.num_bytes)
    assert store.list_names("checkpoints") == []
    assert store.verify() == []
    store.checkpoints.publish(checkpoint(1), version=1, provenance=provenance)
    assert store.checkpoints.versions() == [1]


def test_remove_takes_the_version_and_its_objects_alone(
    store: ArtifactStore, records: Records, provenance: Provenance
) -> None:
    for version in (1, 2):
        store.features.publish(records["features"], version=version, provenance=provenance)
    store.features.remove(1)
    assert store.features.versions() == [2]
    assert store.list_names("features/v000001") == []
    assert store.verify() == []
    with pytest.raises(MissingArtifactError, match=r"no version 1 .*there: 2"):
        store.features.remove(1)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("series", SERIES_NAMES)
def test_every_damaged_object_is_named(
    store: ArtifactStore, records: Records, provenance: Provenance, series: str, damage: str
) -> None:
    published = getattr(store, series)
    published.publish(records[series], version=3, provenance=provenance)
    manifest = published.manifest(3)
    names = [f"{series}/v000003/{manifest.attempt}/{name}" for name in manifest.objects]
    for name in [*names, f"{series}/v000003/manifest.json"]:
        intact = store.read_bytes(name)
        assert intact is not None
        if name.endswith("manifest.json") and damage == "remove":
            continue  # without a manifest there is no version
        if damage == "flip":
            store.write_bytes(name, intact[:-9] + bytes([intact[-9] ^ 1]) + intact[-8:])
        elif damage == "truncate":
            store.write_bytes(name, intact[:-1])
        else:
            store.delete(name)
        with pytest.raises(CorruptArtifactError, match=name):
            published.load(3)
        problems = store.verify()
        assert len(problems) == 1
        assert name in problems[0]
        store.write_bytes(name, intact)
    assert store.verify() == []


def test_a_reference_holds_a_version_to_its_digest(store: ArtifactStore, provenance: Provenance) -> None:
    old = store.checkpoints.publish(checkpoint(1, 1.0), version=1, provenance=provenance)
    store.checkpoints.publish(checkpoint(2), version=2, parents=[old], provenance=provenance)
    assert store.checkpoints.load(old).weights["w"].tolist() == [1, 1, 1]
    store.checkpoints.remove(1)
    assert store.verify() == []
    store.checkpoints.publish(checkpoint(1, 2.0), version=1, provenance=provenance)
    with pytest.raises(CorruptArtifactError, match=r"checkpoints/v000001/manifest\.json.*was replaced"):
        store.checkpoints.load(old)
    assert store.verify() == [
        "demo/checkpoints version 2 was made from checkpoints version 1, which is another one now"
    ]
    # Made again to the bit, by somebody else at another time, it is what was referred to.
    store.checkpoints.remove(1)
    again = provenance.model_copy(update={"pid": 8}).now()
    assert store.checkpoints.publish(checkpoint(1, 1.0), version=1, provenance=again) == old
    assert store.checkpoints.load(old).weights["w"].tolist() == [1, 1, 1]
    assert store.verify() == []


def test_another_schema_number_is_one_clear_error(store: ArtifactStore, provenance: Provenance) -> None:
    store.checkpoints.publish(checkpoint(1), version=1, provenance=provenance)
    name = "checkpoints/v000001/manifest.json"
    intact = store.checkpoints.manifest(1)
    store.write_bytes(name, write_manifest(intact.model_copy(update={"schema_number": 99})))
    expected = (
        r"manifest\.json in the store .* has schema number 99, this aplt reads 1; use the aplt that wrote the run"
    )
    for look in (lambda: store.checkpoints.load(1), store.verify, store.damage):
        with pytest.raises(StoreError, match=expected):
            look()
    # A damaged number is no other schema.
    store.write_bytes(name, write_manifest(intact).replace(b'"schema_number": 1', b'"schema_number": 3'))
    with pytest.raises(CorruptArtifactError, match="has another checksum than its content"):
        store.checkpoints.load(1)


def test_a_manifest_of_a_newer_aplt_is_not_taken_for_a_damaged_one(
    store: ArtifactStore, provenance: Provenance
) -> None:
    store.checkpoints.publish(checkpoint(1), version=1, provenance=provenance)

    class Newer(ArtifactManifest):
        licence: str = "new in 9.0"

    newer = Newer.model_validate(store.checkpoints.manifest(1).model_dump())
    store.write_bytes("checkpoints/v000001/manifest.json", write_manifest(newer))
    with pytest.raises(StoreError, match="has a field licence that this aplt does not know; use the aplt that wrote"):
        store.damage()


def test_wait_returns_what_is_published_meanwhile(open_store: OpenStore, provenance: Provenance) -> None:
    waiter, writer = open_store("demo").checkpoints, open_store("demo").checkpoints
    polls: list[int] = []

    def on_poll() -> None:
        polls.append(len(polls))
        if len(polls) == 3:
            writer.publish(checkpoint(1), version=1, provenance=provenance)

    assert waiter.wait(1, timeout_s=60, poll_s=0.001, on_poll=on_poll) == writer.ref(1)
    assert polls == [0, 1, 2]


def test_wait_says_what_it_waited_for(store: ArtifactStore, provenance: Provenance) -> None:
    store.checkpoints.publish(checkpoint(4), version=4, provenance=provenance)
    expected = r"Waited 0\.0 s for demo/checkpoints version 5 .*newest version seen is 4\. The trainer died\."
    with pytest.raises(ArtifactTimeoutError, match=expected):
        store.checkpoints.wait(5, timeout_s=0, describe=lambda: "The trainer died.")
    with pytest.raises(ArtifactTimeoutError, match="no version was seen"):
        store.labels.wait(1, timeout_s=0)


def test_runs_do_not_see_each_other(
    open_store: OpenStore, place: tuple[str, dict[str, str]], provenance: Provenance
) -> None:
    url, options = place
    assert ArtifactStore.runs(url, options=options) == []
    store, other = open_store("demo"), open_store("demo-2")
    store.checkpoints.publish(checkpoint(1), version=1, provenance=provenance)
    other.write_json("run.json", {})
    open_store("notes").write_bytes("readme.txt", b"not a run")
    assert ArtifactStore.runs(url, options=options) == ["demo", "demo-2"]
    assert other.checkpoints.versions() == []
    assert other.list_names() == ["run.json"]
    assert all(name.startswith("checkpoints/v000001/") for name in store.list_names())


def test_small_json_objects(open_store: OpenStore) -> None:
    store, other = open_store("demo"), open_store("demo")
    assert store.read_json("status/trainer.json") is None
    store.write_json("status/trainer.json", {"epoch": 1, "name": "Zoë"})
    store.write_json("status/trainer.json", {"epoch": 2})
    assert other.read_json("status/trainer.json") == {"epoch": 2}
    assert store.create_json("lock.json", {"owner": 1})
    assert not other.create_json("lock.json", {"owner": 2})
    assert (other.read_json("lock.json") or {})["owner"] == 1
    assert other.list_names("status") == ["status/trainer.json"]
    store.write_bytes("log/part.bin", b"\x00\x01")
    assert other.list_names() == ["lock.json", "log/part.bin", "status/trainer.json"]
    store.delete("lock.json")
    store.delete("lock.json")
    store.write_bytes("bad.json", b"{")
    assert store.create_json("run.json", {"lr": 0.5})
    store.write_bytes("run.json", (store.read_bytes("run.json") or b"").replace(b"0.5", b"0.7"))
    for name in ("bad.json", "run.json"):
        with pytest.raises(CorruptArtifactError, match=rf"demo/{name} .* is damaged.*`aplt store repair "):
            store.read_json(name)
        assert store.read_note(name) == {}
    assert store.damaged_json() == ["bad.json", "run.json"]
    assert store.verify() == ["demo/bad.json is damaged", "demo/run.json is damaged"]
    assert store.read_note("not there.json") == {}


@pytest.mark.parametrize("name", ["", "/a", "a//b", "../other/x", "a/./b", "a/"])
def test_object_names_stay_inside_the_run(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ValueError, match="expected a relative path"):
        store.write_bytes(name, b"")


def test_a_record_is_published_under_its_own_version(store: ArtifactStore, provenance: Provenance) -> None:
    with pytest.raises(ValueError, match="checkpoints version 2 was to hold a record of 1"):
        store.checkpoints.publish(checkpoint(1), version=2, provenance=provenance)
