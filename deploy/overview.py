"""What prepared data holds, in numbers: clips by class and part, their lengths, sizes and frame rates, and what is bad.

The labels of unlabelled clips are in it on purpose: it is for people who look at their own data, never for training.

N clips of the manifest, K classes (one more if there are clips whose class is not known), P parts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aplt.common.data.manifest import read_columns
from aplt.common.data.prepared import QUARANTINE, PreparedData, digest, load_truth
from aplt.common.data.splits import UNKNOWN

PARTS = ("labelled", "unlabelled", "test", "in no part", "in quarantine")
LABELLED, UNLABELLED, TEST, NO_PART, BAD = range(len(PARTS))
NOT_KNOWN = "class not known"


@dataclass(frozen=True, kw_only=True, eq=False)
class Overview:
    """Prepared data with every label that is known."""

    prepared: Path
    split: str
    data: PreparedData
    class_names: tuple[str, ...]
    """Those of the data, and one more for the clips whose class is not known, if there are any."""
    labels_N: NDArray[np.int16]
    parts_N: NDArray[np.int8]
    """Place in `PARTS`. A clip that shows its label counts as labelled, even if it is used without it too."""
    reasons: dict[str, str]
    """Why clips are in quarantine, by clip id."""

    @classmethod
    def read(cls, prepared: Path, split: str) -> Overview:
        """Return what is prepared in this directory, split in this way.

        Raises:
            DataError: the directory or the split is not prepared, unfinished or changed.
        """
        data = PreparedData.open(prepared, split)
        labels_N = load_truth(prepared)
        names = data.class_names
        if (labels_N == UNKNOWN).any():
            labels_N = np.where(labels_N == UNKNOWN, np.int16(len(names)), labels_N)
            names = (*names, NOT_KNOWN)
        reasons = dict(zip(*read_columns(prepared / QUARANTINE, ("clip_id", "reason")), strict=True))
        parts_N = np.full(len(labels_N), NO_PART, dtype=np.int8)
        parts_N[[clip_id in reasons for clip_id in data.manifest.clip_id]] = BAD
        parts_N[data.test_rows_T] = TEST
        parts_N[data.unlabeled_rows_N] = UNLABELLED
        parts_N[data.labeled_rows_M] = LABELLED
        return cls(
            prepared=prepared,
            split=split,
            data=data,
            class_names=names,
            labels_N=labels_N,
            parts_N=parts_N,
            reasons=reasons,
        )

    def counts(self) -> NDArray[np.int64]:
        """Return the number of clips of every class in every part, [K, P]."""
        counts_KP = np.zeros((len(self.class_names), len(PARTS)), dtype=np.int64)
        np.add.at(counts_KP, (self.labels_N, self.parts_N), 1)
        return counts_KP

    def lengths(self) -> tuple[NDArray[np.float64], str, int]:
        """Return the lengths of the clips that can be used, their unit, and how many are left out.

        The unit is seconds, and clips whose frame rate is not known are left out, unless that is none's: then it is
        frames.
        """
        manifest = self.data.manifest
        frames_N, fps_N = manifest.lengths.astype(np.float64), manifest.fps
        usable_N = (self.parts_N != BAD) & (frames_N >= 0)
        timed_N = usable_N & (fps_N > 0)
        if not timed_N.any():
            return frames_N[usable_N], "frames", 0
        return frames_N[timed_N] / fps_N[timed_N], "seconds", int((usable_N & ~timed_N).sum())

    def frame_rates(self) -> list[tuple[float | None, int]]:
        """Return the frame rates (None: not known) of the usable clips with their number, most frequent first."""
        fps = self.data.manifest.fps[self.parts_N != BAD].tolist()
        return _ranked(Counter(round(rate, 2) if rate > 0 else None for rate in fps))

    def frame_sizes(self) -> list[tuple[tuple[int, int], int]]:
        """Return (width, height) of the usable clips with their number, most frequent first."""
        manifest, usable_N = self.data.manifest, self.parts_N != BAD
        return _ranked(Counter(zip(manifest.width[usable_N].tolist(), manifest.height[usable_N].tolist(), strict=True)))

    def bad_reasons(self) -> list[tuple[str, int]]:
        """Return why clips are in quarantine with their number, most frequent first."""
        return _ranked(Counter(self.reasons.values()))

    def pick(self, label: int, num: int) -> list[int]:
        """Return at most `num` rows of a class that can be shown, by part.

        All parts take turns, and each takes a clip of a group, then of a recording, that was taken least so far. Among
        equal ones the digest of the clip id decides, so that the same clips are shown everywhere.
        """
        manifest = self.data.manifest
        rows = np.flatnonzero((self.labels_N == label) & (self.parts_N != BAD)).tolist()
        waiting: dict[int, list[int]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: digest(manifest.clip_id[row])):
            waiting[self.parts_N[row]].append(row)
        taken: Counter[str] = Counter()

        def use(row: int) -> tuple[int, int]:
            return taken[f"group {manifest.group[row]}"], taken[f"recording {manifest.recording[row]}"]

        picked: list[int] = []
        while waiting and len(picked) < num:
            for part in sorted(waiting)[: num - len(picked)]:
                row = min(waiting[part], key=use)
                picked.append(row)
                taken.update((f"group {manifest.group[row]}", f"recording {manifest.recording[row]}"))
                waiting[part].remove(row)
            waiting = {part: left for part, left in waiting.items() if left}
        return sorted(picked, key=lambda row: (self.parts_N[row], row))


def _ranked(counts: Counter[Any]) -> list[tuple[Any, int]]:
    """Return what was counted, most frequent first; equal ones in the order of their names."""
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
