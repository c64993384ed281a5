"""Letters: N clips, F frames, S side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aplt.common.data import cache as module
from aplt.common.data.cache import CacheWriter, ClipCache, cache_settings, wrong_rows
from aplt.common.data.frames import Failure, Frames
from aplt.common.errors import DataError

SETTINGS = cache_settings(num_segments=2, frames_per_segment=2, size=6, fit="crop")
NAMES = ("a", "b", "c", "d")


def identities(*names: str) -> list[list[Any]]:
    return [[name, 10, None] for name in names]


def writer(folder: Path, *names: str, settings: dict[str, Any] | None = None) -> CacheWriter:
    return CacheWriter(folder, settings=settings or SETTINGS, identities=identities(*(names or NAMES)))


def clip(seed: int) -> Frames:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 6, 6, 3), dtype=np.uint8)
    return Frames(pixels, 25.0, seed + 10, 64, 48)


def fill(folder: Path, *names: str) -> NDArray[np.uint8]:
    with writer(folder, *names) as cache:
        for row in cache.missing(1.0):
            cache.add(row, clip(row))
        cache.finish()
    return np.stack([clip(row).frames_FHWC for row in range(len(names or NAMES))])


def test_what_was_written_is_read(tmp_path: Path) -> None:
    pixels = fill(tmp_path / "key")
    cache = ClipCache.open(tmp_path / "key")
    assert (cache.num_segments, cache.frames_per_segment, cache.size, cache.shape) == (2, 2, 6, (4, 4, 6, 6, 3))
    rows_B = np.array([3, 0, 3], dtype=np.int32)
    read = cache.read(rows_B)
    assert type(read) is np.ndarray
    assert read.flags.writeable
    np.testing.assert_array_equal(read, pixels[rows_B])
    np.testing.assert_array_equal(cache.read(rows_B), read)  # now from the map
    out = np.zeros_like(read)
    assert cache.read(rows_B, out=out) is out
    np.testing.assert_array_equal(out, read)
    assert cache.read(np.array([], dtype=np.int32)).shape == (0, 4, 6, 6, 3)
    with pytest.raises(IndexError):
        cache.read(np.array([4], dtype=np.int32))


def test_the_file_is_a_plain_numpy_array(tmp_path: Path) -> None:
    pixels = fill(tmp_path / "key")
    np.testing.assert_array_equal(np.load(tmp_path / "key" / "clips.npy"), pixels)


def test_a_writer_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    with writer(tmp_path / "key") as cache:
        cache.add(2, clip(2))
    with pytest.raises(DataError, match="not finished"):
        ClipCache.open(tmp_path / "key")
    with writer(tmp_path / "key") as cache:
        assert cache.missing(1.0) == [0, 1, 3]
        assert int(cache.status["nframes"][2]) == 12


def test_clips_that_a_crash_tore_are_decoded_again(tmp_path: Path) -> None:
    with writer(tmp_path / "key") as cache:
        for row in range(4):
            cache.add(row, clip(row))
    pixels = np.load(tmp_path / "key" / "clips.npy", mmap_mode="r+")
    pixels[1, 0, 0, 0, 0] ^= 1
    pixels.flush()
    with writer(tmp_path / "key") as cache:
        assert cache.missing(1.0) == [1]


def test_damage_to_a_finished_cache_is_found(tmp_path: Path) -> None:
    fill(tmp_path / "key")
    assert wrong_rows(tmp_path / "key").tolist() == []
    pixels = np.load(tmp_path / "key" / "clips.npy", mmap_mode="r+")
    pixels[2] = 0
    pixels.flush()
    assert wrong_rows(tmp_path / "key").tolist() == [2]
    cache = ClipCache.open(tmp_path / "key")
    cache.read(np.array([0, 1, 3], dtype=np.int32))
    with pytest.raises(DataError, match=r"damaged \(the checksum of row 2 is wrong\): run `aplt data prepare CONFIG`"):
        cache.read(np.array([1, 2], dtype=np.int32))


def test_what_happens_to_the_file_while_it_is_in_use(tmp_path: Path) -> None:
    pixels = fill(tmp_path / "key")
    path, rows_B = tmp_path / "key" / "clips.npy", np.arange(4, dtype=np.int32)
    before, cut, deleted = (ClipCache.open(tmp_path / "key") for _ in range(3))
    before.read(rows_B)
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 1)
    np.testing.assert_array_equal(cut.read(rows_B[:3]), pixels[:3])
    for cache in (before, cut):
        with pytest.raises(DataError, match=r"clips.npy was cut off while it was in use \(row 3\)"):
            cache.read(rows_B)
    path.write_bytes(whole)
    path.unlink()
    np.testing.assert_array_equal(deleted.read(rows_B), pixels)


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (lambda folder: os.truncate(folder / "clips.npy", 128 + 432 + 7), [1, 2, 3]),
        (lambda folder: os.truncate(folder / "clips.npy", 5), NAMES),
        (lambda folder: (folder / "clips.npy").unlink(), NAMES),
        (lambda folder: (folder / "status.npy").unlink(), NAMES),
        (lambda folder: (folder / "status.npy").write_bytes(b"no array"), NAMES),
    ],
)
def test_a_finished_cache_that_lost_something_is_mended(
    tmp_path: Path, damage: Callable[[Path], object], missing: Sequence[object]
) -> None:
    pixels = fill(tmp_path / "key")
    damage(tmp_path / "key")
    with pytest.raises(DataError, match="aplt data prepare"):
        ClipCache.open(tmp_path / "key")
    with writer(tmp_path / "key") as cache:
        assert len(cache.missing(1.0)) == len(missing)
    with pytest.raises(DataError, match="not finished"):  # nobody reads it meanwhile
        ClipCache.open(tmp_path / "key")
    fill(tmp_path / "key")
    np.testing.assert_array_equal(ClipCache.open(tmp_path / "key").read(np.arange(4, dtype=np.int32)), pixels)


def test_damaged_clips_of_a_finished_cache_are_found_on_request(tmp_path: Path) -> None:
    fill(tmp_path / "key")
    pixels = np.load(tmp_path / "key" / "clips.npy", mmap_mode="r+")
    pixels[2, 0, 0, 0, 0] ^= 1
    pixels.flush()
    with writer(tmp_path / "key") as cache:
        assert cache.missing(1.0) == []
    with CacheWriter(tmp_path / "key", settings=SETTINGS, identities=identities(*NAMES), verify=True) as cache:
        assert cache.missing(1.0) == [2]


def test_failures_are_remembered_and_tried_again_only_if_that_may_help(tmp_path: Path) -> None:
    with writer(tmp_path / "key") as cache:
        cache.add(0, Failure("no video"))
        cache.add(1, Failure("too slow", retry_above_s=5.0))
        cache.add(2, Failure("crashed", retry_above_s=0.0))
        cache.add(3, clip(3))
        cache.finish()
    with (tmp_path / "key" / "failures.jsonl").open("a") as file:
        file.write('{"row": 3, "rea')  # killed while writing
    with writer(tmp_path / "key") as cache:
        assert sorted(cache.failures) == [0, 1, 2]
        assert cache.missing(5.0) == [2]
        assert sorted(cache.failures) == [0, 1]
        cache.add(2, clip(2))
        cache.finish()
    with writer(tmp_path / "key") as cache:
        assert cache.missing(5.0) == []
        assert cache.missing(6.0) == [1]
        assert cache.failures == {0: Failure("no video")}


def test_an_older_cache_with_equal_settings_hands_its_clips_over(tmp_path: Path) -> None:
    fill(tmp_path / "old", "a", "b", "c")
    other = {**SETTINGS, "fit": "pad"}
    with writer(tmp_path / "other", "b", settings=other) as cache:
        assert cache.missing(1.0) == [0]
    with writer(tmp_path / "new", "c", "x", "a") as cache:
        assert cache.missing(1.0) == [1]
        cache.add(1, clip(9))
        assert (tmp_path / "old").is_dir()
        cache.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "other"]
    new = ClipCache.open(tmp_path / "new")
    rows_B = np.arange(3, dtype=np.int32)
    np.testing.assert_array_equal(new.read(rows_B), np.stack([clip(row).frames_FHWC for row in (2, 9, 0)]))


def test_clips_are_known_by_what_they_were_decoded_from_wherever_their_rows_are(tmp_path: Path) -> None:
    with writer(tmp_path / "all", "a", "b", "c", "d", "e") as cache:
        for row in (0, 1, 3):
            cache.add(row, clip(row))
        cache.add(2, Failure("no video"))
        cache.add(4, Failure("too slow", retry_above_s=5.0))
        cache.finish()
    with writer(tmp_path / "fewer", "e", "d", "c", "d") as cache:  # d twice: a video that is there under two names
        assert cache.failures == {0: Failure("too slow", retry_above_s=5.0), 2: Failure("no video")}
        assert cache.missing(5.0) == []
        assert cache.missing(6.0) == [0]
        cache.finish()
    fewer = ClipCache.open(tmp_path / "fewer").read(np.array([1, 3], dtype=np.int32))
    np.testing.assert_array_equal(fewer, np.stack([clip(3).frames_FHWC] * 2))
    with writer(tmp_path / "more", "a", "d", "x") as cache:
        assert cache.missing(5.0) == [0, 2]


def test_clips_of_another_format_are_neither_read_nor_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "old")
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    with pytest.raises(DataError, match="old was made by another version of aplt: run `aplt data prepare CONFIG`"):
        ClipCache.open(tmp_path / "old")
    newer = cache_settings(num_segments=2, frames_per_segment=2, size=6, fit="crop")
    with writer(tmp_path / "new", settings=newer) as cache:
        assert cache.missing(1.0) == [0, 1, 2, 3]
        for row in range(4):
            cache.add(row, clip(row))
        cache.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # nobody can read the old one any more


def test_an_older_cache_that_lost_its_end_hands_nothing_over(tmp_path: Path) -> None:
    fill(tmp_path / "old")
    os.truncate(tmp_path / "old" / "clips.npy", 200)
    with writer(tmp_path / "new", "a", "x") as cache:
        assert cache.missing(1.0) == [0, 1]


def test_a_folder_without_its_description_is_started_anew(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "clips.npy").write_bytes(b"half")
    fill(tmp_path / "key")
    assert ClipCache.open(tmp_path / "key").shape == (4, 4, 6, 6, 3)


def test_faults_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prepare the data again"):
        ClipCache.open(tmp_path / "gone")
    fill(tmp_path / "key")
    whole = (tmp_path / "key" / "clips.npy").read_bytes()
    (tmp_path / "key" / "clips.npy").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"clips.npy has 1855 bytes, 1856 were expected: run"):
        ClipCache.open(tmp_path / "key")


def test_too_little_space_is_said_before_decoding(tmp_path: Path) -> None:
    with writer(tmp_path / "key") as cache:
        cache.require_space(4)
        with pytest.raises(DataError, match=r"needs .* GB more .* are free"):
            cache.require_space(10**15)


def test_frames_of_another_shape_are_refused(tmp_path: Path) -> None:
    with writer(tmp_path / "key") as cache, pytest.raises(ValueError, match="expected uint8 frames"):
        cache.add(0, Frames(np.zeros((4, 6, 7, 3), np.uint8), 25.0, 4, 64, 48))


def test_the_description_says_what_the_cache_holds(tmp_path: Path) -> None:
    fill(tmp_path / "key")
    about = json.loads((tmp_path / "key" / "cache.json").read_text())
    assert about == {"settings": SETTINGS, "num_clips": 4, "complete": True}
