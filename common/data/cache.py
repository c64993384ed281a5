"""The clip cache: every clip as raw frames in one memory-mapped file, with a checksum per clip.

N clips (manifest rows), B batch, F stored frames, T wanted frames, S side of a frame in pixels.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
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
ROW = np.dtype([("state", "<u4"), ("checksum", "<u4"), ("fps", "<f4"), ("nframes", "<i4")])


@dataclass(frozen=True, kw_only=True)
class ClipCache:
    """Frames of all clips, to read from."""

    clips: NDArray[np.uint8]
    """[N, F, S, S, 3], memory-mapped; rows of clips that could not be decoded are zero."""
    num_segments: int
    frames_per_segment: int
    size: int

    @classmethod
    def open(cls, folder: Path) -> ClipCache:
        """Return the cache in `folder`. Raises DataError if it is missing, unfinished or cut off."""
        about = json.loads(read_text(folder / ABOUT))
        if not about["complete"]:
            raise DataError(f"{folder} is not finished: prepare the data again, which goes on where it stopped")
        try:
            clips = np.asarray(np.load(folder / CLIPS, mmap_mode="r"))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / CLIPS} cannot be read ({error}): delete {folder} and prepare again") from None
        settings = about["settings"]
        return cls(
            clips=clips,
            num_segments=settings["num_segments"],
            frames_per_segment=settings["frames_per_segment"],
            size=settings["size"],
        )

    def read(self, rows_B: NDArray[np.int32], frames_BT: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Return a copy of the frames [B, T, S, S, 3] of these manifest rows; all F of each if none are named."""
        if frames_BT is None:
            return self.clips.take(rows_B, axis=0)
        picked: NDArray[np.uint8] = self.clips[np.asarray(rows_B)[:, None], frames_BT]
        return picked


class CacheWriter:
    """Fills one cache folder, clip by clip; used as a context manager.

    A clip counts as done once its checksum is in status.npy, so a killed process loses only the clips it was working
    on. What a crash of the machine tore is found by the checksums.

    Args:
        folder: Of this cache; its name covers `settings` and `identities`.
        settings: Of the decoding: num_segments, frames_per_segment, size, fit.
        identities: What each clip was decoded from. Clips of an older cache with equal settings are taken over.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, Any], identities: list[list[Any]]) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self._identities = identities
        self._row_shape = (settings["num_segments"] * settings["frames_per_segment"], *[settings["size"]] * 2, 3)
        self._row_bytes = int(np.prod(self._row_shape))

    def __enter__(self) -> Self:
        if not (self.folder / ABOUT).is_file():
            self._create()
        self.complete = json.loads(read_text(self.folder / ABOUT))["complete"]
        self._clips: BinaryIO = (self.folder / CLIPS).open("r+b")
        self._status: BinaryIO = (self.folder / STATUS).open("r+b")
        self._clips_start, self._status_start = _header_bytes(self._clips), _header_bytes(self._status)
        self.status = np.load(self.folder / STATUS)
        self.failures = self._read_failures()
        if not self.complete:
            self._drop_torn()
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
            self._write(row, outcome.frames_FHWC, outcome.fps, outcome.nframes)
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

    def _create(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)  # killed before cache.json, which comes last
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

    def _write(self, row: int, frames_FHWC: NDArray[np.uint8], fps: float, nframes: int) -> None:
        if frames_FHWC.shape != self._row_shape or frames_FHWC.dtype != np.uint8:
            raise ValueError(f"expected uint8 frames {self._row_shape}, got {frames_FHWC.dtype} {frames_FHWC.shape}")
        data = np.ascontiguousarray(frames_FHWC).data
        self._clips.seek(self._clips_start + row * self._row_bytes)
        self._clips.write(data)
        self._clips.flush()
        self.status[row] = (DECODED, zlib.crc32(data), fps, nframes)
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

    def _take_over(self) -> None:
        """Copy clips that an older cache decoded from the same files with the same settings."""
        for other in self._with_equal_settings():
            known = {tuple(identity): row for row, identity in enumerate(json.loads(read_text(other / IDENTITIES)))}
            status, clips = np.load(other / STATUS), np.load(other / CLIPS, mmap_mode="r")
            for row, identity in enumerate(self._identities):
                old = known.get(tuple(identity))
                if old is None or status[old]["state"] != DECODED or self.status[row]["state"] == DECODED:
                    continue
                if zlib.crc32(clips[old].data) == status[old]["checksum"]:
                    self._write(row, clips[old], float(status[old]["fps"]), int(status[old]["nframes"]))

    def _with_equal_settings(self) -> list[Path]:
        return [
            about.parent
            for about in sorted(self.folder.parent.glob(f"*/{ABOUT}"))
            if about.parent != self.folder and json.loads(read_text(about))["settings"] == self.settings
        ]


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


def _create_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(np.prod(shape)) * dtype.itemsize)


def _header_bytes(file: BinaryIO) -> int:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()
