"""The clip cache: every clip as raw frames in one file, with a checksum per clip.

The file is a NumPy array, but it is read with system calls: a mapped file that somebody cuts off while it is in use
kills the process with SIGBUS, and says nothing.

N clips (manifest rows), B batch, F stored frames, S side of a frame in pixels.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from aplt.common.data.frames import Failure, Frames, FrameSpec
from aplt.common.data.manifest import read_text, write_text
from aplt.common.errors import DataError

CLIPS, STATUS, FAILURES, ABOUT, IDENTITIES = (
    "clips.npy",
    "status.npy",
    "failures.jsonl",
    "cache.json",
    "identities.json",
)
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
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)

    @classmethod
    def open(cls, folder: Path) -> ClipCache:
        """Return the cache in `folder`. Raises DataError if it is missing, unfinished, cut off or no cache."""
        about = _about(folder)
        if about is None:
            raise DataError(f"{folder / ABOUT} is damaged: {_MEND}")
        if not about["complete"]:
            raise DataError(f"{folder} is not finished: prepare the data again, which goes on where it stopped")
        try:
            cache = cls(folder, about["settings"], np.load(folder / STATUS))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} cannot be read ({error}): {_MEND}") from None
        expected, found = cache._start + math.prod(cache.shape), os.fstat(cache._file).st_size
        if found != expected:
            raise DataError(f"{cache._path} has {found} bytes, {expected} were expected: {_MEND}")
        return cache

    def read(self, rows_B: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return a copy of the frames [B, F, S, S, 3] of these manifest rows.

        The checksum of a clip is compared when it is read for the first time.

        Raises:
            DataError: a clip is damaged, or the file was cut off meanwhile.
        """
        clips = np.empty((len(rows_B), *self.shape[1:]), dtype=np.uint8)
        for clip, row in zip(clips, rows_B.tolist(), strict=True):
            if not 0 <= row < len(self._checksums_N):
                raise IndexError(f"row {row} of {len(self._checksums_N)}")
            try:
                count = os.preadv(self._file, [clip.data], self._start + row * self._row_bytes)
            except OSError as error:
                raise DataError(f"{self._path} cannot be read: {error.strerror}") from None
            if count < self._row_bytes:
                raise DataError(f"{self._path} was cut off while it was in use (row {row}): {_MEND}")
            if self._unverified_N[row]:
                if zlib.crc32(clip.data) != self._checksums_N[row]:
                    raise DataError(f"{self._path} is damaged (the checksum of row {row} is wrong): {_MEND}")
                self._unverified_N[row] = False
        return clips


class CacheWriter:
    """Fills one cache folder, clip by clip; used as a context manager.

    A clip counts as done once its checksum is in status.npy, so a killed process loses only the clips it was working
    on. What a crash of the machine tore is found by the checksums.

    Args:
        folder: Of this cache; its name covers `settings` and `identities`.
        settings: Of the decoding: num_segments, frames_per_segment, size, fit.
        identities: What each clip was decoded from. Clips of an older cache with equal settings are taken over.
        verify: Compare the checksums of a complete cache too, which reads all of it.
    """

    def __init__(
        self, folder: Path, *, settings: Mapping[str, Any], identities: list[list[Any]], verify: bool = False
    ) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self._identities = identities
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
        for other in self._with_equal_settings():
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
        write_text(self.folder / IDENTITIES, json.dumps(self._identities))
        self._write_about(complete=False)

    def _write_about(self, *, complete: bool) -> None:
        about = {"settings": self.settings, "num_clips": len(self._identities), "complete": complete}
        write_text(self.folder / ABOUT, json.dumps(about, indent=2) + "\n")

    def _write(self, row: int, clip: Frames) -> None:
        frames_FHWC = clip.frames_FHWC
        if frames_FHWC.shape != self._row_shape or frames_FHWC.dtype != np.uint8:
            raise ValueError(f"expected uint8 frames {self._row_shape}, got {frames_FHWC.dtype} {frames_FHWC.shape}")
        data = np.ascontiguousarray(frames_FHWC).data
        self._clips.seek(self._clips_start + row * self._row_bytes)
        self._clips.write(data)
        self._clips.flush()
        self.status[row] = (DECODED, zlib.crc32(data), clip.fps, clip.nframes, clip.width, clip.height)
        self._status.seek(self._status_start + row * ROW.itemsize)
        self._status.write(self.status[row].tobytes())
        self._status.flush()

    def _read_failures(self) -> dict[int, Failure]:
        path = self.folder / FAILURES
        failures: dict[int, Failure] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:  # cut off when the process was killed: that clip is tried again
                continue
            failures[record["row"]] = Failure(record["reason"], record["retry_above_s"])
        done = np.flatnonzero(self.status["state"] == DECODED)
        return {row: failure for row, failure in failures.items() if row not in set(done.tolist())}

    def _drop_torn(self) -> None:
        wrong = wrong_rows(self.folder, self.status)
        self.status[wrong] = np.zeros(1, dtype=ROW)
        if len(wrong) and self.complete:
            self._write_about(complete=False)
            self.complete = False

    def _take_over(self) -> None:
        """Copy clips that an older cache decoded from the same files with the same settings."""
        for other in self._with_equal_settings():
            try:
                identities = json.loads(read_text(other / IDENTITIES))
                status, clips = np.load(other / STATUS), np.load(other / CLIPS, mmap_mode="r")
            except (OSError, ValueError):  # it lost some of its files, or their ends
                continue
            known = {tuple(identity): row for row, identity in enumerate(identities)}
            for row, identity in enumerate(self._identities):
                old = known.get(tuple(identity))
                if old is None or status[old]["state"] != DECODED or self.status[row]["state"] == DECODED:
                    continue
                if zlib.crc32(clips[old].data) == status[old]["checksum"]:
                    _, _, fps, nframes, width, height = status[old].tolist()
                    self._write(row, Frames(clips[old], fps, nframes, width, height))

    def _with_equal_settings(self) -> list[Path]:
        return [
            about.parent
            for about in sorted(self.folder.parent.glob(f"*/{ABOUT}"))
            if about.parent != self.folder and (_about(about.parent) or {}).get("settings") == self.settings
        ]


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
    return done[[zlib.crc32(clips[row].data) != status[row]["checksum"] for row in done]]


def frame_spec(settings: Mapping[str, Any]) -> FrameSpec:
    """Return what the workers are asked for under these cache settings."""
    num_frames = settings["num_segments"] * settings["frames_per_segment"]
    return FrameSpec(num_frames=num_frames, size=settings["size"], fit=settings["fit"])


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
