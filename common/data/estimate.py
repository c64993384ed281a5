"""What decoding all clips will cost, from a few of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import fmean

from aplt.common.data.decode import decode_clips
from aplt.common.data.frames import Failure, FrameSpec, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What `estimate` expects."""

    num_clips: int
    num_videos: int
    bytes_per_clip: int
    """In the cache, exactly."""
    clip_s: float
    """Processor time of one core for a clip of a file that is open."""
    opening_s: float
    """The same for opening a file, which clips cut out of one video share."""
    seconds: float
    """For all clips, with the workers asked for as far as there are cores."""
    sampled: list[Job]
    failed: dict[int, str]
    """Why clips of the sample cannot be decoded, by the index of their job."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all clips in the cache."""
        return self.num_clips * self.bytes_per_clip


def estimate(jobs: Sequence[Job], *, spec: FrameSpec, workers: int, timeout_s: float, sample: int = 12) -> Estimate:
    """Decode `sample` clips spread over `jobs`, each twice with its file kept open in between, and scale up.

    Raises:
        DataError: the decoding process cannot start.
    """
    places = sorted({(2 * n + 1) * len(jobs) // (2 * sample) for n in range(sample)}) if jobs else []
    sampled = [jobs[place] for place in places]
    failed: dict[int, str] = {}
    opened: list[float] = []
    open_before: list[float] = []
    twice = [replace(job, index=2 * place + again) for place, job in enumerate(sampled) for again in (0, 1)]
    previous, last = None, 0.0
    with closing(decode_clips(twice, spec=spec, workers=min(1, len(twice)), timeout_s=timeout_s)) as outcomes:
        for job, outcome in outcomes:
            now = time.monotonic()
            if previous is not None:  # the time of the first one is mostly that of starting the process
                (open_before if job.path == previous else opened).append(now - last)
            if isinstance(outcome, Failure):
                failed[sampled[job.index // 2].index] = outcome.reason
            previous, last = job.path, time.monotonic()
    clip_s = fmean(open_before) if open_before else 0.0
    opening_s = max(0.0, fmean(opened) - clip_s) if opened else 0.0
    num_videos = len({job.path for job in jobs})
    cores = min(workers, len(os.sched_getaffinity(0)))
    return Estimate(
        num_clips=len(jobs),
        num_videos=num_videos,
        bytes_per_clip=spec.num_bytes,
        clip_s=clip_s,
        opening_s=opening_s,
        seconds=(len(jobs) * clip_s + num_videos * opening_s) / cores,
        sampled=sampled,
        failed=failed,
    )
