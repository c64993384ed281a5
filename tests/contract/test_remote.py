"""Prepared folders on every kind of store; killed in the middle where processes can share the store."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aplt.common.data import remote
from aplt.common.data.cache import CacheWriter, cache_settings
from aplt.common.data.frames import Frames
from aplt.common.data.manifest import Clip, csv_text, manifest_text, write_text
from aplt.common.data.prepared import PREPARED, PreparedData, digest, load_pool, load_truth, split_names, write_split
from aplt.common.data.remote import fetch, push
from aplt.common.data.splits import Split
from aplt.common.errors import DataError, StoreError
from aplt.common.objects import Objects

NUM_CLIPS = 24
PART_BYTES = 5000  # 37 parts, none of which ends with a clip

# Pushes or fetches, and dies at the n-th of a kind of request.
DYING = f"""
import os, signal, sys, json
from pathlib import Path
from aplt.common.data import remote
from aplt.common.objects import Objects
what, folder, url, options, call, nth = sys.argv[1:]
remote.PART_BYTES, remote.NUM_THREADS = {PART_BYTES}, 1
left, product = int(nth), getattr(Objects, call)
def dies(self, key, *data):
    global left
    left -= key.startswith("objects/")
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return product(self, key, *data)
setattr(Objects, call, dies)
if what == "push":
    remote.push(Path(folder), url, json.loads(options))
else:
    remote.fetch(url, Path(folder), json.loads(options))
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", PART_BYTES)


def make(folder: Path, *, seed: int = 0) -> Path:
    """Prepare 24 clips of random pixels, all of whose files but those of the split depend on the seed."""
    settings = cache_settings(num_segments=2, frames_per_segment=5, size=16, fit="crop")
    clips = [Clip(clip_id=f"{seed}é{row:02d}", video=f"{row}.mp4") for row in range(NUM_CLIPS)]
    key = f"{seed:016x}"
    with CacheWriter(
        folder / "cache" / key, settings=settings, identities=[[seed, clip.clip_id] for clip in clips]
    ) as cache:
        for row, pixels in enumerate(
            np.random.default_rng(seed).integers(0, 256, (NUM_CLIPS, 10, 16, 16, 3), np.uint8)
        ):
            cache.add(row, Frames(pixels, 25.0, 10, 64, 48))
        cache.finish()
    files = {
        "manifest.csv": manifest_text(clips),
        "classes.json": json.dumps([{"name": "nod"}, {"name": "wave"}]),
        "truth.csv": csv_text(("clip_id", "label"), [(clip.clip_id, "nod") for clip in clips]),
        "quarantine.csv": "clip_id,reason\n",
    }
    for name, text in files.items():
        write_text(folder / name, text)
    digests = {name: digest(text) for name, text in files.items()}
    write_text(folder / PREPARED, json.dumps({"digest": f"{seed}", "cache": key, "pool": "", "files": digests}))
    add_split(folder, "half", NUM_CLIPS // 2)
    add_split(folder, "third", NUM_CLIPS // 3)
    return folder


def add_split(folder: Path, name: str, num_labeled: int) -> None:
    rows = np.arange(NUM_CLIPS, dtype=np.int32)
    split = Split(labeled_rows=rows[:num_labeled], unlabeled_rows=rows[num_labeled:-2], test_rows=rows[-2:])
    write_split(folder, name, split, load_pool(folder), origin={"imported": "by hand"})


def assert_equal(local: Path, prepared: Path, split: str = "half") -> None:
    found, expected = PreparedData.open(local, split), PreparedData.open(prepared, split)
    assert found.digest == expected.digest
    assert tuple(found.manifest) == tuple(expected.manifest)
    np.testing.assert_array_equal(load_truth(local), load_truth(prepared))
    rows = np.arange(NUM_CLIPS, dtype=np.int32)
    np.testing.assert_array_equal(found.clips.read(rows), expected.clips.read(rows))


def test_what_is_pushed_is_fetched(tmp_path: Path, place: tuple[str, dict[str, str]]) -> None:
    url, options = place
    prepared = make(tmp_path / "prepared")
    sent: list[tuple[int, int]] = []
    push(prepared, url, options, tick=lambda done, total: sent.append((done, total)))
    assert len(sent) == 37
    assert sent[-1] == (184448, 184448)
    assert fetch(url, tmp_path / "local", options) == tmp_path / "local"
    assert_equal(tmp_path / "local", prepared)
    assert split_names(tmp_path / "local") == ["half", "third"]


def test_only_the_split_that_is_needed_is_fetched(tmp_path: Path) -> None:
    prepared = make(tmp_path / "prepared")
    push(prepared, "memory://one-split")
    fetch("memory://one-split", tmp_path / "local", split="third")
    assert split_names(tmp_path / "local") == ["third"]
    assert_equal(tmp_path / "local", prepared, "third")
    fetch("memory://one-split", tmp_path / "local", split="half")
    assert_equal(tmp_path / "local", prepared, "half")


def test_equal_data_cost_one_request_and_newer_data_replace_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, local, old, new = "memory://newer", tmp_path / "local", make(tmp_path / "old"), make(tmp_path / "new", seed=1)
    asked: list[str] = []
    for name in ("get", "put", "delete"):
        call = getattr(Objects, name)
        monkeypatch.setattr(Objects, name, lambda *args, call=call: asked.append(args[1]) or call(*args))
    push(old, url)
    fetch(url, local)
    asked.clear()
    push(old, url)
    fetch(url, local)
    assert asked == [PREPARED] * 2
    add_split(old, "late", 5)  # nothing of the clips is sent or fetched anew for it
    push(old, url)
    fetch(url, local)
    assert_equal(local, old, "late")
    assert sum(key.startswith("objects/") for key in asked) == 3 + 4  # its list of test clips is that of another split
    push(new, url)
    store = Objects(url)
    part = f"objects/{json.loads(store.get(PREPARED) or b'')['pushed']['clips']['parts'][9]}"
    data = store.get(part) or b""
    store.delete(part)
    with pytest.raises(DataError, match=f"{part} is gone from {url}: other data were pushed meanwhile; fetch again"):
        fetch(url, local)
    with pytest.raises(DataError, match="no prepared data"):  # rather than half of the new
        PreparedData.open(local, "half")
    store.put(part, data)
    fetch(url, local)
    assert_equal(local, new)
    assert len(list((local / "cache").iterdir())) == 1
    assert len(store.walk("")) == 1 + 4 + 2 + 37 + 8 - 1  # nothing is left of the old


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_push_that_was_killed_is_continued(
    tmp_path: Path, kind: str, s3_url: str, s3_options: dict[str, str]
) -> None:
    url, options = (s3_url, s3_options) if kind == "s3" else (str(tmp_path / "store"), {})
    prepared = make(tmp_path / "prepared")
    die("push", prepared, url, options, "put", 20)
    with pytest.raises(DataError, match="holds no prepared data"):
        fetch(url, tmp_path / "local", options)
    store = Objects(url, options)
    before = {found.key: found.modified for found in store.walk("objects")}
    assert len(before) == 20
    push(prepared, url, options)
    after = {found.key: found.modified for found in store.walk("objects")}
    assert after.items() > before.items()  # none was written again
    fetch(url, tmp_path / "local", options)
    assert_equal(tmp_path / "local", prepared)


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_fetch_that_was_killed_is_continued(
    tmp_path: Path, kind: str, s3_url: str, s3_options: dict[str, str]
) -> None:
    url, options = (s3_url, s3_options) if kind == "s3" else (str(tmp_path / "store"), {})
    prepared, local = make(tmp_path / "prepared"), tmp_path / "local"
    push(prepared, url, options)
    die("fetch", local, url, options, "get", 20)
    with pytest.raises(DataError, match="no prepared data"):
        PreparedData.open(local, "half")
    (unfinished,) = local.glob("cache/*/clips.npy.partial")
    parts = json.loads(Objects(url, options).get(PREPARED) or b"")["pushed"]["clips"]["parts"]
    content = unfinished.read_bytes()
    unfinished.write_bytes(content[: 3 * PART_BYTES] + b"damage" + content[3 * PART_BYTES + 6 :])
    for part in {*parts[:20]} - {parts[3]}:  # what is there and intact is not asked for again
        Objects(url, options).delete(f"objects/{part}")
    fetch(url, local, options)
    assert_equal(local, prepared)


def die(what: str, folder: Path, url: str, options: dict[str, str], call: str, nth: int) -> None:
    arguments = [what, str(folder), url, json.dumps(options), call, str(nth)]
    result = subprocess.run([sys.executable, "-c", DYING, *arguments], timeout=60, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr


def test_a_fetch_waits_for_another_one(tmp_path: Path) -> None:
    url, local, prepared = str(tmp_path / "store"), tmp_path / "local", make(tmp_path / "prepared")
    push(prepared, url)
    command = "import sys; from pathlib import Path; from aplt.common.data.remote import fetch"
    command += "; fetch(sys.argv[1], Path(sys.argv[2]))"
    racing = [subprocess.Popen([sys.executable, "-c", command, url, str(local)]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in racing] == [0, 0]
    assert_equal(local, prepared)
    assert not list(local.rglob("*.partial"))


def test_damage_is_found_and_said(tmp_path: Path) -> None:
    url, prepared = "memory://damage", make(tmp_path / "prepared")
    push(prepared, url)
    store = Objects(url)
    index = json.loads(store.get(PREPARED) or b"")
    part = f"objects/{index['pushed']['clips']['parts'][30]}"
    store.put(part, b"x" * PART_BYTES)
    with pytest.raises(DataError, match=f"{part} in {url} is damaged: delete it and push the data again"):
        fetch(url, tmp_path / "local")
    for files in ({"../outside": "0" * 64}, {"/outside": "0" * 64}, {"manifest.csv": "../x"}):
        store.put(PREPARED, json.dumps(index | {"pushed": index["pushed"] | {"files": files}}).encode())
        with pytest.raises(DataError, match=r"prepared.json is damaged or was not made by a push"):
            fetch(url, tmp_path / "local")
    store.put(PREPARED, json.dumps(index | {"cache": "../.."}).encode())
    with pytest.raises(DataError, match=r"prepared.json is damaged or was not made by a push"):
        fetch(url, tmp_path / "local")


def test_data_are_not_fetched_to_where_they_were_pushed_from(tmp_path: Path) -> None:
    prepared = make(tmp_path / "prepared")
    push(prepared, "memory://own")
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    assert fetch("memory://own", prepared, split="half") == prepared
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


def test_places_that_do_not_do_are_said(
    tmp_path: Path, s3_options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = make(tmp_path / "prepared")
    with pytest.raises(StoreError, match=r"NoSuchBucket.*create the bucket or correct the URL"):
        push(prepared, "s3://not-there/data", s3_options)
    with pytest.raises(DataError, match=r"memory://nothing holds no prepared data: push them there"):
        fetch("memory://nothing", tmp_path / "local")
    with pytest.raises(DataError, match="holds no prepared data: run `aplt data prepare`"):
        push(tmp_path / "nothing", "memory://nothing")
    push(prepared, "memory://places")
    with pytest.raises(DataError, match="holds data prepared there that are not those at memory://places: push them"):
        fetch("memory://places", make(tmp_path / "other", seed=1))
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs 0.0 GB more in .*, but 0.0 GB are free: free some, or move data.local"):
        fetch("memory://places", tmp_path / "full")
