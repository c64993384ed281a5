"""Sums per class that do not depend on the order of the samples, and passes over features in bounded memory.

Letters: N samples, K classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of one chunk: small enough for a core's cache, large enough to keep a GPU busy.
CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
_COPIES = 16  # a pass over float64 copies of the features visits as many times fewer


class ClassSums:
    """Per-class sums and counts that are exact on a grid, so that order, chunks and device cannot change a bit.

    Features are rounded to multiples of a power of two, chosen so that even the sum of all samples stays below 2**53;
    float64 adds such numbers without rounding. For a million samples the grid is 2**-32 of the largest feature.
    """

    def __init__(self, num_classes: int, num_features: int, *, max_rows: int, max_abs: float, device: torch.device):
        """Expect at most `max_rows` samples at a time, of features that do not exceed `max_abs` in size."""
        exponent = 52 - max_rows.bit_length() - math.frexp(max_abs)[1]
        self._scale = math.ldexp(1.0, min(exponent, 1000))
        self._sums_KD = torch.zeros(num_classes, num_features, dtype=torch.float64, device=device)
        self.counts_K = torch.zeros(num_classes, dtype=torch.int64, device=device)

    def add(self, features_ND: Tensor, classes_N: Tensor, *, sign: int = 1) -> None:
        """Add samples to their classes, or take them away with `sign=-1`."""
        for rows in chunks(features_ND, width=_COPIES * features_ND.shape[1]):
            self._sums_KD.index_add_(0, classes_N[rows], self._on_grid(features_ND[rows]), alpha=sign)
        self.counts_K.add_(torch.bincount(classes_N, minlength=len(self.counts_K)), alpha=sign)

    def move(self, features_ND: Tensor, former_N: Tensor, classes_N: Tensor) -> None:
        """Take the samples whose class changed out of their former class and into their present one."""
        moved_U = (classes_N != former_N).nonzero().flatten()
        for part in chunks(features_ND, width=_COPIES * features_ND.shape[1], rows=len(moved_U)):
            rows_U = moved_U[part]
            grid_UD = self._on_grid(features_ND.index_select(0, rows_U))
            self._sums_KD.index_add_(0, classes_N[rows_U], grid_UD)
            self._sums_KD.index_add_(0, former_N[rows_U], grid_UD, alpha=-1)
        minlength = len(self.counts_K)
        self.counts_K += torch.bincount(classes_N[moved_U], minlength=minlength)
        self.counts_K -= torch.bincount(former_N[moved_U], minlength=minlength)

    def means(self, empty_KD: Tensor | None = None) -> Tensor:
        """Return the float64 means [K, D]; a class without samples gets its row of `empty_KD`, or zeros."""
        means_KD = self._sums_KD / (self.counts_K.clamp_min(1).double() * self._scale)[:, None]
        return means_KD if empty_KD is None else torch.where(self.counts_K[:, None] > 0, means_KD, empty_KD)

    def _on_grid(self, features_BD: Tensor) -> Tensor:
        return features_BD.to(torch.float64, copy=True).mul_(self._scale).round_()


def chunks(features_ND: Tensor, *, width: int | None = None, rows: int | None = None) -> Iterator[slice]:
    """Yield the slices of consecutive rows that one pass works on.

    A row counts `width` numbers, as many as it has features if not given; `rows` are visited, all if not given.
    """
    budget = CHUNK_ELEMENTS["cuda" if features_ND.is_cuda else "cpu"]
    size = max(1, budget // max(1, features_ND.shape[1] if width is None else width))
    num_rows = len(features_ND) if rows is None else rows
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def largest(features_ND: Tensor, name: str) -> float:
    """Return the largest absolute feature, 0 if there is none.

    Raises ValueError if `features_ND` is not a floating-point matrix or holds NaN or infinity.
    """
    if features_ND.ndim != 2 or not features_ND.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point matrix of one row per sample, "
            f"got {features_ND.dtype} of shape {tuple(features_ND.shape)}"
        )
    if features_ND.numel() == 0:
        return 0.0
    low, high = (float(bound) for bound in torch.aminmax(features_ND))
    if not math.isfinite(low) or not math.isfinite(high):
        finite_N = torch.cat([features_ND[rows].isfinite().all(dim=1) for rows in chunks(features_ND)])
        bad_U = (~finite_N).nonzero().flatten()
        raise ValueError(
            f"{name} must be finite, but {len(bad_U)} of its {len(features_ND)} rows hold NaN or infinity, "
            f"the first is row {int(bad_U[0])}: the network that made them has diverged"
        )
    return max(-low, high)


def class_ids(labels_N: Tensor, *, name: str, num_rows: int, num_classes: int, device: torch.device) -> Tensor:
    """Return labels as int64 on `device`. Raises ValueError unless there are `num_rows` of them in 0..num_classes-1."""
    if labels_N.shape != (num_rows,) or labels_N.is_floating_point() or labels_N.dtype == torch.bool:
        raise ValueError(
            f"{name} must be {num_rows} integers, one per sample, got {labels_N.dtype} of shape {tuple(labels_N.shape)}"
        )
    classes_N = labels_N.to(device=device, dtype=torch.int64)
    if num_rows:
        low, high = (int(bound) for bound in torch.aminmax(classes_N))
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name} must lie in 0..{num_classes - 1} (num_classes={num_classes}), got {low}..{high}")
    return classes_N
