"""One open video file and exactly the frames of it that are asked for, whatever its container's index is worth.

decord seeks by an index in which frames are counted as shown but key frames as stored. Around key frames of open groups
of pictures, in AVI files without presentation times and in WMV and MPEG files it returns frames up to some seconds away
from the ones asked for (`benchmarks/exact_frames.py`). Read one after the other they are right in all containers but
MPEG transport streams. So this seeks only where decord confirms that it arrived, by the time of the frame that it
decoded, and else decodes on from where it is.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby

import decord
import numpy as np
from decord.video_reader import _CAPI_VideoReaderGetCurrentPosition as position_of
from numpy.typing import NDArray

Uint8 = NDArray[np.uint8]
WORTH_SEEKING = 4  # frames: to decode fewer than these costs less
ALIGNMENTS = (16, 32, 64)  # bytes to which the decoder may pad a row, by processor


class Video:
    """A file held open, whose frames are scaled to `width` x `height` pixels as they are decoded, or keep their size.

    `width_for_decoder` says which widths can be had.

    Letters: N frames of the file, F frames asked for.
    """

    def __init__(self, path: str, *, width: int = -1, height: int = -1) -> None:
        self._name, self._width, self._height = path, width, height
        try:
            path.encode()
        except UnicodeEncodeError:  # decord takes no other names
            self._file = open(path, "rb")  # noqa: SIM115
            self._name = f"/proc/self/fd/{self._file.fileno()}"
        self._open()
        self.nframes = len(self._reader)
        fps = float(self._reader.get_avg_fps())
        self.fps = fps if math.isfinite(fps) and fps > 0 else 0.0
        """0 if the file does not say."""
        spans_N2 = self._reader.get_frame_timestamp(np.arange(self.nframes)).astype(np.float64)
        steps = np.diff(spans_N2[:, 0])
        has_times = bool((steps > 0).all())
        self.times_N: NDArray[np.float64] | None = None
        """When each frame appears and, one more, when the last one goes, in seconds; None if the file does not say."""
        if has_times:
            last, gone = spans_N2[-1]
            self.times_N = np.append(spans_N2[:, 0], gone if gone > last or not len(steps) else last + steps.mean())
        self._seeks = self._skips = has_times  # decord tells the frames to skip by their times

    def read_size(self) -> tuple[int, int]:
        """Return the width and height of the frames, by reading the next one."""
        height, width = self._read(self._next).shape[1:3]
        return width, height

    def frames(self, indices_F: Iterable[int]) -> Uint8:
        """Return the frames [F, H, W, 3] with these indices, which go up. Quick if they lie behind those before.

        Raises:
            ValueError: the file ends before them.
            RuntimeError: the decoder gave up.
        """
        parts = [list(part) for _, part in groupby(map(int, indices_F), key=self._part)]
        batches = [batch for part in parts for batch in (self._in_part(part) if self._skips else self._in_order(part))]
        return batches[0] if len(batches) == 1 else np.concatenate(batches)

    def _in_part(self, indices: list[int]) -> Iterator[Uint8]:
        """Yield batches of frames that have the same key frame; decord has no reason to seek between them."""
        if self._go_to(indices[0]):
            yield self._read(indices.pop(0))
        if indices:
            yield self._reader.get_batch(indices).asnumpy()
            self._next = indices[-1] + 1

    def _in_order(self, indices: list[int]) -> Iterator[Uint8]:
        """Yield batches of one frame and read all others up to them."""
        for index in indices:
            if index < self._next:
                self._open()
            while self._next < index:
                self._read(self._next)
            yield self._read(index)

    def _go_to(self, index: int) -> bool:
        """Go to the part of a frame; True if the frame stands by, already decoded."""
        part = self._part(index)
        if self._seeks and (index < self._next or part - self._next > WORTH_SEEKING):
            self._reader.seek_accurate(part)
            if position_of(self._reader._handle) == part + 1:  # decord was where it wanted to get, and decoded a frame
                if index == part:
                    return True
                self._read(part)  # else it would be taken for the next one
                return False
            self._seeks = False
            self._open()
        if index < self._next:
            self._open()
        while self._part(self._next) != part:  # decord skips within a part; a frame read is the step to the next one
            last = self._keys[bisect_right(self._keys, self._next)] - 1
            self._reader.seek_accurate(last)
            self._read(last)
        return False

    def _part(self, index: int) -> int:
        """Return the index of the key frame from which decord decodes the frame."""
        return self._keys[bisect_right(self._keys, index) - 1] if self._keys and index > self._keys[0] else 0

    def _open(self) -> None:
        # Without a tolerance for faults, frames that are missing at the end would be copies of the last one.
        self._reader = decord.VideoReader(
            self._name, width=self._width, height=self._height, num_threads=1, fault_tol=1e-9
        )
        self._keys: list[int] = self._reader.get_key_indices()
        self._next = 0

    def _read(self, index: int) -> Uint8:
        """Return the frame [1, H, W, 3] that comes next."""
        try:
            frame: Uint8 = self._reader.next().asnumpy()
        except StopIteration:
            raise ValueError(f"the video is damaged: frame {index} of {self.nframes} is not there") from None
        self._next = index + 1
        return frame[None]


def width_for_decoder(width: int) -> int:
    """Return the smallest width from `width` up for which decord returns whole rows.

    It takes rows for unpadded if their padded length is a multiple of the width. Padded to 64 bytes, those of 1, 2, 3,
    4, 6, 8, 12, 16, 24, 32, 48, 96 and 144 pixels are (all widths up to 1100 were tried); heights do not matter.
    """
    while any(_looks_unpadded(width, alignment) for alignment in ALIGNMENTS):
        width += 1
    return width


def _looks_unpadded(width: int, alignment: int) -> bool:
    padded = -(-width // alignment) * alignment
    return padded != width and 3 * padded % width == 0
