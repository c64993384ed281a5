"""The clip cache: every clip as raw frames in one file, with a checksum per clip.

The file is a NumPy array, which all readers of a machine share in its page cache, however many processes they are. A
process reads a clip for the first time with a system call, so that a disk or a network that fails is an error and the
checksum can be compared; from then on it copies from a map, which takes no system call and no lookup of each page
(benchmarks/reading.py). A map ends the process with SIGBUS if somebody cuts the file off, so its length is looked at
before each batch.

N clips (manifest rows), B batch, F stored frames, S side of a frame in pixels.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from aplt.common.data.frames import Failure, Fit, Frames, FrameSpec
from aplt.common.data.manifest import read_text, write_text
from aplt.common.errors import DataError

CLIPS, STATUS, FAILURES, ABOUT, IDENTITIES = (
    "clips.npy",
    "status.npy",
    "failures.jsonl",
    "cache.json",
    "identities.npy",
)
FORMAT = 3
"""Changes when the same clips and settings give other frames, or the files of a cache another meaning."""
DECODED = 1
_MEND = "run `aplt data prepare CONFIG`, which decodes again what is missing or damaged"
ROW = np.dtype(
    [
        ("state", "<u4"),
        ("checksum", "<u4"),
        ("fps", "<f4"),
        ("nframes", "<i4"),
        ("width", "<i4"),
        ("height", "<i4"),
    ]
)


class ClipCache:
    """Frames of all clips, to read from. Its file stays open: who deletes or replaces it does not disturb a reader."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], status: NDArray[Any]) -> None:
        self.num_segments: int = settings["num_segments"]
        self.frames_per_segment: int = settings["frames_per_segment"]
        self.size: int = settings["size"]
        self.shape = (len(status), *_row_shape(settings))
        """[N, F, S, S, 3]; rows of clips that could not be decoded are zero."""
        self._path = folder / CLIPS
        self._row_bytes = math.prod(self.shape[1:])
        self._checksums_N = status["checksum"]
        self._unverified_N = status["state"] == DECODED
        with self._path.open("rb") as file:
            self._start = _header_bytes(file)
            found, expected = os.fstat(file.fileno()).st_size, self._start + math.prod(self.shape)
            if found != expected:
                raise DataError(f"{self._path} has {found} bytes, {expected} were expected: {_MEND}")
            self._file = os.dup(file.fileno())
            self._map = mmap.mmap(self._file, 0, prot=mmap.PROT_READ)
        self._clips_NFSS3 = np.ndarray(self.shape, np.uint8, self._map, offset=self._start)
        weakref.finalize(self, os.close, self._file)

    @classmethod
    def open(cls, folder: Path) -> ClipCache:
        """Return the cache in `folder`. Raises DataError if it is missing, unfinished, cut off or no cache."""
        about = _about(folder)
        if about is None:
            raise DataError(f"{folder / ABOUT} is damaged: {_MEND}")
        if not about["complete"]:
            raise DataError(f"{folder} is not finished: prepare the data again, which goes on where it stopped")
        if about["settings"].get("format") != FORMAT:
            raise DataError(f"{folder} was made by another version of aplt: {_MEND}")
        try:
            return cls(folder, about["settings"], np.load(folder / STATUS))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} cannot be read ({error}): {_MEND}") from None

    def read(self, rows_B: NDArray[np.int32], *, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return a copy of the frames [B, F, S, S, 3] of these manifest rows, in `out` if that is given.

        The checksum of a clip is compared when it is read for the first time.

        Raises:
            DataError: a clip is damaged, or the file was cut off meanwhile.
        """
        clips = np.empty((len(rows_B), *self.shape[1:]), dtype=np.uint8) if out is None else out
        if not len(rows_B):
            return clips
        if rows_B.min() < 0 or rows_B.max() >= len(self._unverified_N):
            raise IndexError(f"rows {rows_B.min()}..{rows_B.max()} of {len(self._unverified_N)}")
        if self._unverified_N[rows_B].any():
            self._read_first(rows_B.tolist(), clips)
        elif self._map.size() < self._offset(last := int(rows_B.max())) + self._row_bytes:
            raise self._cut_off(last)
        else:
            np.take(self._clips_NFSS3, rows_B, axis=0, out=clips, mode="clip")  # other modes copy twice
        return clips

    def _read_first(self, rows: list[int], clips: NDArray[np.uint8]) -> None:
        for row in rows:  # the disk works on all of them at once
            os.posix_fadvise(self._file, self._offset(row), self._row_bytes, os.POSIX_FADV_WILLNEED)
        for row, clip in zip(rows, clips, strict=True):
            try:
                count = os.preadv(self._file, [clip.data], self._offset(row))
            except OSError as error:
                raise DataError(f"{self._path} cannot be read: {error.strerror}") from None
            if count < self._row_bytes:
                raise self._cut_off(row)
            if self._unverified_N[row]:
                if _checksum(clip) != self._checksums_N[row]:
                    raise DataError(f"{self._path} is damaged (the checksum of row {row} is wrong): {_MEND}")
                self._unverified_N[row] = False

    def _offset(self, row: int) -> int:
        return self._start + row * self._row_bytes

    def _cut_off(self, row: int) -> DataError:
        return DataError(f"{self._path} was cut off while it was in use (row {row}): {_MEND}")


class CacheWriter:
    """Fills one cache folder, clip by clip; used as a context manager.

    A clip counts as done once its checksum is in status.npy, so a killed process loses only the clips it was working
    on. What a crash of the machine tore is found by the checksums.

    Args:
        folder: Of this cache; its name covers `settings` and `identities`.
        settings: Those of `cache_settings`.
        identities: Of each clip, what it is decoded from: equal ones stand for equal frames. Clips of an older cache
            with equal settings are taken over, wherever their rows were.
        verify: Compare the checksums of a complete cache too, which reads all of it.
    """

    def __init__(
        self, folder: Path, *, settings: Mapping[str, Any], identities: Iterable[Sequence[object]], verify: bool = False
    ) -> None:
        self.folder = folder
        self.settings = dict(settings)
        # 16 bytes per clip: a million identities as Python objects take a hundred times as much.
        self._identities = np.array([_identity(parts) for parts in identities], dtype="S16")
        self._verify = verify
        self._row_shape = _row_shape(settings)
        self._row_bytes = math.prod(self._row_shape)

    def __enter__(self) -> Self:
        if not self._is_whole():
            self._create()
        if (about := _about(self.folder)) is None:  # the checksums tell what is there
            self._write_about(complete=False)
        self.complete = about is not None and about["complete"]
        self._clips: BinaryIO = (self.folder / CLIPS).open("r+b")
        self._status: BinaryIO = (self.folder / STATUS).open("r+b")
        self._clips_start, self._status_start = _header_bytes(self._clips), _header_bytes(self._status)
        self.status = np.load(self.folder / STATUS)
        self.failures = self._read_failures()
        length = self._clips_start + len(self._identities) * self._row_bytes
        cut_off = os.fstat(self._clips.fileno()).st_size != length
        if cut_off:
            self._clips.truncate(length)
        if not self.complete or cut_off or self._verify:
            self._drop_torn()
        if not self.complete:
            self._take_over()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clips.close()
        self._status.close()

    def missing(self, timeout_s: float) -> list[int]:
        """Return the rows that are still to decode. Failures that `timeout_s` may mend are forgotten."""
        self.failures = {
            row: failure
            for row, failure in self.failures.items()
            if failure.retry_above_s is None or timeout_s <= failure.retry_above_s
        }
        return [int(row) for row in np.flatnonzero(self.status["state"] != DECODED) if row not in self.failures]

    def require_space(self, num_clips: int) -> None:
        """Raise DataError unless the disk has room for so many more clips."""
        needed, free = num_clips * self._row_bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"the clip cache needs {needed / 1e9:.1f} GB more in {self.folder}, but {free / 1e9:.1f} GB are free: "
                "free some, move data.prepared, or lower data.clip_size or data.frames_per_segment"
            )

    def add(self, row: int, outcome: Frames | Failure) -> None:
        """Keep what came of one clip."""
        if isinstance(outcome, Frames):
            self._write(row, outcome)
            self.failures.pop(row, None)
            return
        self.failures[row] = outcome
        record = {"row": row, "reason": outcome.reason, "retry_above_s": outcome.retry_above_s}
        with (self.folder / FAILURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def finish(self) -> None:
        """Bring everything to the disk and say that the cache is complete."""
        for file in (self._clips, self._status):
            file.flush()
            os.fsync(file.fileno())
        if not self.complete:
            self._write_about(complete=True)
        self.complete = True
        for other, _ in self._others():
            shutil.rmtree(other)

    def _is_whole(self) -> bool:
        """Whether all files are there, so that only clips may be missing."""
        try:
            with (self.folder / CLIPS).open("rb") as clips:
                _header_bytes(clips)
            return (self.folder / ABOUT).is_file() and len(np.load(self.folder / STATUS)) == len(self._identities)
        except (OSError, ValueError):
            return False

    def _create(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)  # killed before cache.json, which comes last, or lost since
        self.folder.mkdir(parents=True)
        num_clips = len(self._identities)
        # A sparse file, written to through file handles: a full disk is then an error, not a crash of the process.
        _create_array(self.folder / CLIPS, (num_clips, *self._row_shape), np.dtype(np.uint8))
        _create_array(self.folder / STATUS, (num_clips,), ROW)
        np.save(self.folder / IDENTITIES, self._identities)
        self._write_about(complete=False)

    def _write_about(self, *, complete: bool) -> None:
        about = {"settings": self.settings, "num_clips": len(self._identities), "complete": complete}
        write_text(self.folder / ABOUT, json.dumps(about, indent=2) + "\n")

    def _write(self, row: int, clip: Frames) -> None:
        frames_FHWC = clip.frames_FHWC
        if frames_FHWC.shape != self._row_shape or frames_FHWC.dtype != np.uint8:
            raise ValueError(f"expected uint8 frames {self._row_shape}, got {frames_FHWC.dtype} {frames_FHWC.shape}")
        frames_FHWC = np.ascontiguousarray(frames_FHWC)
        self._clips.seek(self._clips_start + row * self._row_bytes)
        self._clips.write(frames_FHWC.data)
        self._clips.flush()
        self.status[row] = (DECODED, _checksum(frames_FHWC), clip.fps, clip.nframes, clip.width, clip.height)
        self._status.seek(self._status_start + row * ROW.itemsize)
        self._status.write(self.status[row].tobytes())
        self._status.flush()

    def _read_failures(self) -> dict[int, Failure]:
        failures = _read_failures(self.folder)
        return {row: failure for row, failure in failures.items() if self.status[row]["state"] != DECODED}

    def _drop_torn(self) -> None:
        wrong = wrong_rows(self.folder, self.status)
        self.status[wrong] = np.zeros(1, dtype=ROW)
        if len(wrong) and self.complete:
            self._write_about(complete=False)
            self.complete = False

    def _take_over(self) -> None:
        """Copy what an older cache has of the same clips with the same settings: frames, and why there are none."""
        for other, equal in self._others():
            if not equal:
                continue
            try:
                known, status = np.load(other / IDENTITIES), np.load(other / STATUS)
                clips = np.load(other / CLIPS, mmap_mode="r")
            except (OSError, ValueError):  # it lost some of its files, or their ends
                continue
            for row, old in self._same(known, np.flatnonzero(status["state"] == DECODED)):
                if _checksum(clips[old]) == status[old]["checksum"]:
                    _, _, fps, nframes, width, height = status[old].tolist()
                    self._write(row, Frames(clips[old], fps, nframes, width, height))
            failures = _read_failures(other)
            for row, old in self._same(known, np.array(sorted(failures), dtype=np.int64)):
                if row not in self.failures:
                    self.add(row, failures[old])

    def _same(self, known: NDArray[np.bytes_], among: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Return the rows that are still to decode beside a row of `among` that has the same identity in `known`."""
        wanted = np.flatnonzero(self.status["state"] != DECODED)
        if not len(among):
            return []
        among = among[np.argsort(known[among])]
        at = np.searchsorted(known[among], self._identities[wanted]).clip(max=len(among) - 1)
        found = known[among[at]] == self._identities[wanted]
        return list(zip(wanted[found].tolist(), among[at[found]].tolist(), strict=True))

    def _others(self) -> list[tuple[Path, bool]]:
        """Return the caches that this one replaces, equal in all settings but the format, and whether in that too."""
        others = []
        for path in sorted(self.folder.parent.glob(f"*/{ABOUT}")):
            settings = (_about(path.parent) or {}).get("settings", {})
            if path.parent != self.folder and {**settings, "format": FORMAT} == self.settings:
                others.append((path.parent, settings == self.settings))
        return others


def _about(folder: Path) -> dict[str, Any] | None:
    """Return cache.json; None if it is damaged. Raises DataError if it is not there."""
    try:
        about = json.loads(read_text(folder / ABOUT))
    except json.JSONDecodeError:
        return None
    return about if isinstance(about, dict) and {"settings", "complete"} <= about.keys() else None


def wrong_rows(folder: Path, status: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """Return the rows whose stored frames do not have their checksum. Reads the whole cache."""
    if status is None:
        status = np.load(folder / STATUS)
    clips = np.load(folder / CLIPS, mmap_mode="r")
    done = np.flatnonzero(status["state"] == DECODED)
    return done[[_checksum(clips[row]) != status[row]["checksum"] for row in done]]


def cache_settings(*, num_segments: int, frames_per_segment: int, size: int, fit: Fit) -> dict[str, Any]:
    """Return all that decides, beside the video, which bytes are stored of a clip."""
    return {
        "format": FORMAT,
        "num_segments": num_segments,
        "frames_per_segment": frames_per_segment,
        "size": size,
        "fit": fit,
    }


def frame_spec(settings: Mapping[str, Any]) -> FrameSpec:
    """Return what the workers are asked for under these cache settings."""
    num_frames = settings["num_segments"] * settings["frames_per_segment"]
    return FrameSpec(num_frames=num_frames, size=settings["size"], fit=settings["fit"])


def _read_failures(folder: Path) -> dict[int, Failure]:
    path = folder / FAILURES
    failures: dict[int, Failure] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:  # cut off when the process was killed: that clip is tried again
            continue
        failures[record["row"]] = Failure(record["reason"], record["retry_above_s"])
    return failures


def _identity(parts: Sequence[object]) -> bytes:
    return blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _checksum(clip: NDArray[np.uint8]) -> int:
    """CRC-32C, which processors have an instruction for: four times as fast as zlib's CRC-32."""
    checksum: int = google_crc32c.value(clip)
    return checksum


def _row_shape(settings: Mapping[str, Any]) -> tuple[int, int, int, int]:
    return settings["num_segments"] * settings["frames_per_segment"], settings["size"], settings["size"], 3


def _create_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(np.prod(shape)) * dtype.itemsize)


def _header_bytes(file: BinaryIO) -> int:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()
