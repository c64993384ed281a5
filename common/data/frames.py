"""Which frames of a video file are kept, and how they fill a square. What the decoding processes run.

F frames of a clip, H x W pixels, C channels.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aplt.common.data.containers import promised_bytes

Fit = Literal["crop", "pad", "stretch"]
Uint8 = NDArray[np.uint8]
WHOLE = 0.99
"""A file with less of the bytes that its container promises is cut off."""
SAFE_WIDTH = 64  # decord returns wrong rows for some output widths (32, 48, 96, 144, ...), never for multiples of 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSpec:
    """What is kept of a clip: `num_frames` frames of `size` x `size` pixels."""

    num_frames: int
    size: int
    fit: Fit = "crop"
    """crop: fill the square and cut off what sticks out; pad: fit inside, black borders; stretch: ignore the shape."""


@dataclass(frozen=True, slots=True)
class Job:
    """A clip to decode; `index` is handed back. `start` and `end` are frames, both included."""

    index: int
    path: str
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A decoded clip."""

    frames_FHWC: Uint8
    fps: float
    nframes: int
    """Frames of the whole file."""
    width: int
    """Of the file, upright, in pixels."""
    height: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a clip cannot be used, in one line."""

    reason: str
    retry_above_s: float | None = None
    """A deadline above this may help; None: the file itself is at fault."""


def frame_indices(num_frames: int, *, nframes: int, start: int | None, end: int | None) -> NDArray[np.int64]:
    """Return the middles of `num_frames` equal parts of the frames start..end; a short clip repeats frames.

    Raises:
        ValueError: the file has no frame in start..end.
    """
    first, last = start or 0, nframes - 1 if end is None else min(end, nframes - 1)
    if nframes < 1:
        raise ValueError("the video has no frames")
    if first > last:
        raise ValueError(f"the clip starts at frame {first}, but the last frame is {last}")
    parts = 2 * np.arange(num_frames, dtype=np.int64) + 1
    return first + parts * (last - first + 1) // (2 * num_frames)


def decode_clip(job: Job, spec: FrameSpec) -> Frames:
    """Return the frames of a clip as a viewer shows them: upright, square pixels as stored. Runs in a worker."""
    import decord  # here alone: the library starts threads and reserves memory in the process that imports it

    if os.path.getsize(job.path) == 0:
        raise ValueError("the file is empty")
    reader = decord.VideoReader(job.path, num_threads=1)
    nframes, fps = len(reader), float(reader.get_avg_fps())
    promised, length = promised_bytes(job.path), os.path.getsize(job.path)
    if length < WHOLE * promised and (job.end is None or job.end >= nframes):
        raise ValueError(f"the file is cut off: {length} of {promised} bytes are there, {nframes} frames")
    indices = frame_indices(spec.num_frames, nframes=nframes, start=job.start, end=job.end)
    height, width = reader[int(indices[0])].shape[:2]
    content_width, content_height = _content_size(width, height, spec)
    # decord scales before it converts, which is fast for large videos; the width it cannot do is corrected here.
    safe_width = -(-content_width // SAFE_WIDTH) * SAFE_WIDTH
    reader = decord.VideoReader(job.path, width=safe_width, height=content_height, num_threads=1)
    needed, repeats = np.unique(indices, return_inverse=True)
    scaled = reader.get_batch(needed).asnumpy()
    square = _place(scaled, content_width, spec.size)
    fps = fps if math.isfinite(fps) and fps > 0 else 0.0
    return Frames(square[repeats], fps, nframes, width, height)


def _content_size(width: int, height: int, spec: FrameSpec) -> tuple[int, int]:
    if spec.fit == "stretch":
        return spec.size, spec.size
    longer_fills = spec.fit == "pad"
    scale = spec.size / (max(width, height) if longer_fills else min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _place(scaled_FHWC: Uint8, content_width: int, size: int) -> Uint8:
    """Return the frames narrowed to `content_width`, centred in a square: cut where larger, black where smaller."""
    num_frames, height = scaled_FHWC.shape[:2]
    top, left = max(0, (height - size) // 2), max(0, (content_width - size) // 2)
    content = _narrowed(scaled_FHWC[:, top : top + size], content_width, left, min(size, content_width))
    rows, columns = content.shape[1:3]
    if (rows, columns) == (size, size):
        return content
    square = np.zeros((num_frames, size, size, 3), dtype=np.uint8)
    y, x = (size - rows) // 2, (size - columns) // 2
    square[:, y : y + rows, x : x + columns] = content
    return square


def _narrowed(frames_FHWC: Uint8, width: int, first: int, count: int) -> Uint8:
    """Return columns first..first+count of the frames resized (linear) to `width`."""
    given = frames_FHWC.shape[2]
    if given == width:
        return frames_FHWC[:, :, first : first + count]
    position = np.clip((np.arange(first, first + count) + 0.5) * given / width - 0.5, 0, given - 1)
    left = position.astype(np.int64)
    right = np.minimum(left + 1, given - 1)
    weight = np.round((position - left) * 256).astype(np.uint16)[:, None]
    mixed = frames_FHWC[:, :, left] * (256 - weight) + frames_FHWC[:, :, right] * weight + np.uint16(128)
    narrowed: Uint8 = (mixed >> 8).astype(np.uint8)
    return narrowed
