"""Random numbers that are a pure function of what they are for, and the choice of frames made with them.

Nothing here has a state to save or to share: the draw of a clip depends on the run's seed, the epoch, the name of the
view and the clip's manifest row alone, never on the batch, the worker or the device that asks for it.

Letters: B batch, T shown frames.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32] | NDArray[np.int64]
Words = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def uniform(rows_B: IntArray, num: int, *, seed: int, epoch: int | IntArray, view: str) -> NDArray[np.float64]:
    """Return `num` independent draws from [0, 1) for each manifest row, [B, num].

    `epoch` is one number or one per row. `view` names what the draws are for; other names give independent draws.
    Column j is the same whatever `num` is. The generator is splitmix64 (Steele et al. 2014), one stream per row.
    """
    digest = hashlib.blake2b(view.encode(), digest_size=8).digest()
    state_B = np.full(len(rows_B), int.from_bytes(digest, "little"), dtype=np.uint64)
    for part in (seed % 2**64, epoch, rows_B):
        state_B = _mix(_mix(state_B + _STEP) ^ np.asarray(part).astype(np.uint64))
    words = _mix(state_B[:, None] + _STEP * np.arange(1, num + 1, dtype=np.uint64))
    # A double has 53 bits of precision.
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_frames(
    rows_B: IntArray, *, num_segments: int, frames_per_segment: int, seed: int, epoch: int | IntArray, view: str
) -> NDArray[np.int64]:
    """Return one random frame of each segment as positions in the stored frames, [B, T] with T = `num_segments`.

    Temporal segment networks (Wang et al. 2016): the clip is cut into equal segments and each shows one frame.
    """
    draws_BT = uniform(rows_B, num_segments, seed=seed, epoch=epoch, view=f"{view}/frames")
    first_T = np.arange(num_segments) * frames_per_segment
    return first_T + (draws_BT * frames_per_segment).astype(np.int64)


def centre_frames(num: int, *, num_segments: int, frames_per_segment: int) -> NDArray[np.int64]:
    """Return the middle frame of each segment (the later one of two) for `num` clips, [num, T]."""
    frames_T = np.arange(num_segments, dtype=np.int64) * frames_per_segment + frames_per_segment // 2
    return np.tile(frames_T, (num, 1))


def _mix(words: Words) -> Words:
    """The finalizer of splitmix64, a bijection of 64-bit words."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
