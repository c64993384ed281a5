"""Self-adaptive thresholds, and fixed ones for ablations: which pseudo-labels lie close enough to their centre.

Letters: N unlabelled samples, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
    distances_N: Tensor,
    assignments_N: Tensor,
    *,
    num_classes: int,
    sat_scale: float = 1.0,
    min_count: int = 1,
    squared: bool = False,
) -> Thresholds:
    """Return the thresholds of Eq. 4 (APLT, IJCAI 2025): local over largest local, times global.

    Distances are those of the unlabelled samples to their final centres, not squared. A class without samples has
    local and adaptive threshold 0. Classes of fewer than `min_count` samples do not count for the largest local
    threshold, unless all classes are that small. `sat_scale` multiplies the adaptive thresholds. With `squared` means
    are those of the squared distances; what is returned are their roots, which compare with distances.
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
    averaged_N = distances_N.double().square() if squared else distances_N
    max_abs = max_abs**2 if squared else max_abs
    sums = ClassSums(num_classes, 1, max_rows=len(distances_N), max_abs=max_abs, device=distances_N.device)
    overall = ClassSums(1, 1, max_rows=len(distances_N), max_abs=max_abs, device=distances_N.device)
    for rows in chunks(distances_N[:, None]):
        sums.add(averaged_N[rows, None], classes_N[rows])
        overall.add(averaged_N[rows, None], torch.zeros_like(classes_N[rows]))
    local_K, global_threshold = sums.means()[:, 0], float(overall.means())
    if squared:
        local_K, global_threshold = local_K.sqrt(), math.sqrt(global_threshold)

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


def fixed_threshold(
    distances_N: Tensor, assignments_N: Tensor, *, num_classes: int, at_most: float | None = None
) -> Thresholds:
    """Return thresholds that keep every sample up to and including the distance `at_most`; all, if it is None.

    For ablations without Eq. 4. All but `adaptive_K` is as in `self_adaptive_thresholds`, and decides nothing.
    Raises ValueError as that does.
    """
    found = self_adaptive_thresholds(distances_N, assignments_N, num_classes=num_classes)
    if at_most is None:
        at_most = float(distances_N.max()) if len(distances_N) else 0.0
    just_above = torch.full_like(found.adaptive_K, at_most).nextafter(torch.full_like(found.adaptive_K, math.inf))
    return replace(found, adaptive_K=just_above)
