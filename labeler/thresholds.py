"""Self-adaptive thresholds: which pseudo-labels lie close enough to their centre.

Letters: N unlabelled samples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aplt.labeler.sums import ClassSums, chunks, class_ids, largest


@dataclass(frozen=True, eq=False, slots=True)
class Thresholds:
    """Mean distance of all samples, mean distance of each class, and the distance below which a class keeps samples."""

    global_threshold: float
    local_K: Tensor
    adaptive_K: Tensor
    ratio: float
    """r: the global mean over the largest local one. A sample is kept if its share of its class's mean is below r."""

    def keep(self, distances_N: Tensor, assignments_N: Tensor) -> Tensor:
        """Return True where the distance is strictly below the threshold of the assigned class."""
        kept_N: Tensor = distances_N < self.adaptive_K[assignments_N.long()]
        return kept_N


@torch.no_grad()
def self_adaptive_thresholds(
    distances_N: Tensor, assignments_N: Tensor, *, num_classes: int, sat_scale: float = 1.0, min_count: int = 1
) -> Thresholds:
    """Return the thresholds of Eq. 4 (APLT, IJCAI 2025): local over largest local, times global.

    Distances are those of the unlabelled samples to their final centres, not squared. A class without samples has
    local and adaptive threshold 0. Classes of fewer than `min_count` samples do not count for the largest local
    threshold, unless all classes are that small. `sat_scale` multiplies the adaptive thresholds.
    Raises ValueError for distances that are negative or not finite and assignments out of range.
    """
    if sat_scale <= 0 or min_count < 1:
        raise ValueError(f"sat_scale must be above 0 and min_count at least 1, got {sat_scale} and {min_count}")
    if distances_N.ndim != 1:
        raise ValueError(f"distances_N must be one number per sample, got shape {tuple(distances_N.shape)}")
    max_abs = largest(distances_N[:, None], "distances_N")
    if bool((distances_N < 0).any()):
        raise ValueError(f"distances_N must not be negative, got {float(distances_N.min())}")
    classes_N = class_ids(
        assignments_N,
        name="assignments_N",
        num_rows=len(distances_N),
        num_classes=num_classes,
        device=distances_N.device,
    )
    sums = ClassSums(num_classes, 1, max_rows=len(distances_N), max_abs=max_abs, device=distances_N.device)
    overall = ClassSums(1, 1, max_rows=len(distances_N), max_abs=max_abs, device=distances_N.device)
    for rows in chunks(distances_N[:, None]):
        sums.add(distances_N[rows, None], classes_N[rows])
        overall.add(distances_N[rows, None], torch.zeros_like(classes_N[rows]))
    local_K, global_threshold = sums.means()[:, 0], float(overall.means())

    counted_K = sums.counts_K >= min_count
    hardest = float(local_K[counted_K].max() if counted_K.any() else local_K.max())
    adaptive_K = local_K / hardest * global_threshold * sat_scale if hardest > 0 else torch.zeros_like(local_K)
    # In the type of the distances, so that whoever stores them with the thresholds can repeat the decision to the bit.
    return Thresholds(
        global_threshold=global_threshold,
        local_K=local_K.to(distances_N.dtype),
        adaptive_K=adaptive_K.to(distances_N.dtype),
        ratio=global_threshold / hardest if hardest > 0 else 0.0,
    )
