"""Which frames of a video file are kept, and how they fill a square. What the decoding processes run.

F frames of a clip, N frames of its file, H x W pixels, C channels.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aplt.common.data.containers import Outline, outline

if TYPE_CHECKING:
    from aplt.common.data.video import Video

Fit = Literal["crop", "pad", "stretch"]
Uint8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSpec:
    """What is kept of a clip: `num_frames` frames of `size` x `size` pixels."""

    num_frames: int
    size: int
    fit: Fit = "crop"
    """crop: fill the square and cut off what sticks out; pad: fit inside, black borders; stretch: ignore the shape."""

    @property
    def num_bytes(self) -> int:
        return self.num_frames * self.size * self.size * 3


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


def frame_indices(
    num_frames: int, *, nframes: int, start: int | None, end: int | None, times_N: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Return the frames in the middles of `num_frames` equal parts of start..end; a short clip repeats frames.

    With S segments of K frames each, `num_frames` is S K and all of these are kept: training takes one at random of the
    K in each segment, testing the middle one. So K = 1 is the middle frame always, and each further frame a segment
    costs S x size x size x 3 bytes a clip on disk.

    Args:
        num_frames: F.
        nframes: N, of the file.
        start: First frame, 0 if None.
        end: Last frame, included; the file's last if None or beyond it.
        times_N: When each frame appears and, one more, when the last one goes, in seconds. Where frames lie half a
            frame or more off an even rhythm the parts are equal in time, else in frames.

    Raises:
        ValueError: the file has no frame in start..end.
    """
    first, last = start or 0, nframes - 1 if end is None else min(end, nframes - 1)
    if nframes < 1:
        raise ValueError("the video has no frames")
    if first > last:
        raise ValueError(f"the clip starts at frame {first}, but the last frame is {last}")
    parts = 2 * np.arange(num_frames, dtype=np.int64) + 1
    if times_N is not None and not is_steady(times_N[first : last + 1]):
        moments = times_N[first] + (times_N[last + 1] - times_N[first]) * parts / (2 * num_frames)
        shown: NDArray[np.int64] = np.searchsorted(times_N, moments, side="right") - 1
        return np.minimum(shown, last)
    return first + parts * (last - first + 1) // (2 * num_frames)


def is_steady(times_N: NDArray[np.float64]) -> bool:
    """Whether all frames lie less than half a frame off an even rhythm."""
    if len(times_N) < 3:
        return True
    even = np.linspace(times_N[0], times_N[-1], len(times_N))
    return bool(np.abs(times_N - even).max() < (even[1] - even[0]) / 2)


class ClipDecoder:
    """Returns the frames of a clip as a viewer shows them: upright, square pixels as stored. Runs in a worker.

    The file of the last clip stays open, so that clips cut out of one recording cost its opening once. The size of the
    pictures has to be known before a file is opened for scaled frames: where a container describes its pictures as that
    of another file did, they have the same size; else the file is opened twice.
    """

    def __init__(self) -> None:
        self._sizes: dict[bytes, tuple[int, int]] = {}
        self._last: tuple[object, _Open] | None = None

    def __call__(self, job: Job, spec: FrameSpec) -> Frames:
        about = os.stat(job.path)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("this is no regular file")
        if not about.st_size:
            raise ValueError("the file is empty")
        key = (job.path, about.st_ino, about.st_size, about.st_mtime_ns, spec)
        if self._last is None or self._last[0] != key:
            self._last = None  # before the next one is opened
            self._last = (key, self._open(job, spec, about.st_size))
        opened = self._last[1]
        video = opened.video
        if job.end is None or job.end >= video.nframes:
            opened.said.require_whole(about.st_size)
        indices = frame_indices(
            spec.num_frames, nframes=video.nframes, start=job.start, end=job.end, times_N=video.times_N
        )
        needed, repeats = np.unique(indices, return_inverse=True)
        kept_open, self._last = self._last, None  # unless it fails now
        scaled = video.frames(needed)
        self._last = kept_open
        square = _place(scaled, _content_size(opened.width, opened.height, spec)[0], spec.size)
        kept = square if len(needed) == len(indices) else square[repeats]
        return Frames(kept, video.fps, video.nframes, opened.width, opened.height)

    def _open(self, job: Job, spec: FrameSpec, length: int) -> _Open:
        from aplt.common.data.video import Video, width_for_decoder  # starts threads in the process that imports it

        said = outline(job.path)
        if job.end is None:
            said.require_whole(length)
        said.require_readable()
        if not said.picture or said.picture not in self._sizes:
            self._sizes[said.picture] = Video(job.path).read_size()
        width, height = self._sizes[said.picture]
        content_width, content_height = _content_size(width, height, spec)
        video = Video(job.path, width=width_for_decoder(content_width), height=content_height)
        return _Open(said, video, width, height)


class _Open(NamedTuple):
    said: Outline
    video: Video
    width: int
    height: int


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
