"""One open video file and exactly the frames of it that are asked for, whatever its container's index is worth.

decord seeks by an index in which frames are counted as shown but key frames as stored. Around key frames of open groups
of pictures, in AVI files without presentation times and in WMV files it returned frames up to 72 away from the ones
asked for. Frames read one after the other were right in 229 combinations of containers and codecs, but for MPEG
transport streams. So this seeks only where decord confirms that it arrived, by the time of the frame that it decoded,
and else decodes on from where it is.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable

import decord
import numpy as np
from decord.video_reader import _CAPI_VideoReaderGetCurrentPosition as position_of
from numpy.typing import NDArray

Uint8 = NDArray[np.uint8]
ALIGNMENTS = (16, 32, 64)  # bytes to which the decoder may pad a row, by processor


class Video:
    """A file held open; frames are scaled to `width` x `height` pixels as they are decoded, or keep their size.

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
        has_times = bool(np.isfinite(spans_N2).all() and (steps > 0).all())
        self.times_N: NDArray[np.float64] | None = None
        """When each frame appears and, one more, when the last one goes, in seconds; None if the file does not say."""
        if has_times:
            goes = max(spans_N2[-1, 1], spans_N2[-1, 0] + (float(np.median(steps)) if len(steps) else 0.0))
            self.times_N = np.append(spans_N2[:, 0], goes)
        self._seeks = self._skips = has_times  # decord tells the frames to skip by their times

    def frames(self, indices_F: Iterable[int]) -> Uint8:
        """Return the frames [F, H, W, 3] with these indices, which go up. Quick if they lie behind those before.

        Raises:
            ValueError: the file ends before them.
            RuntimeError: the decoder gave up.
        """
        return np.stack([self._frame(int(index)) for index in indices_F])

    def _frame(self, index: int) -> Uint8:
        self._go_to(index)
        self._next = index + 1
        return self._read(index)

    def _go_to(self, index: int) -> None:
        part = self._part(index)
        if self._seeks and (index < self._next or part != self._part(self._next)) and self._seek(part, index):
            return
        if index < self._next:
            self._open()
        if not self._skips:
            for earlier in range(self._next, index):
                self._read(earlier)
            return
        while self._part(self._next) != part:  # within a part the decoder skips; the step to the next is a frame read
            last = self._keys[bisect_right(self._keys, self._next)] - 1
            self._reader.seek_accurate(last)
            self._read(last)
            self._next = last + 1
        self._reader.seek_accurate(index)

    def _seek(self, part: int, index: int) -> bool:
        """Go to a frame by way of the key frame that begins its part; False if that is not where decord gets to."""
        self._reader.seek_accurate(part)
        if position_of(self._reader._handle) != part + 1:
            self._seeks = False
            self._open()
            return False
        if index > part:
            self._read(part)  # it stands by, already decoded, and would be taken for the frame after it
            self._reader.seek_accurate(index)
        return True

    def _part(self, index: int) -> int:
        """Return the index of the key frame from which decord decodes the frame."""
        return self._keys[bisect_right(self._keys, index) - 1] if self._keys and index > self._keys[0] else 0

    def _open(self) -> None:
        self._reader = decord.VideoReader(self._name, width=self._width, height=self._height, num_threads=1)
        self._keys: list[int] = self._reader.get_key_indices()
        self._next = 0

    def _read(self, index: int) -> Uint8:
        try:
            frame: Uint8 = self._reader.next().asnumpy()
        except StopIteration:
            raise ValueError(f"the video is damaged: frame {index} of {self.nframes} is not there") from None
        return frame


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
