"""Semi-supervised k-means, and plain k-means for the ablation.

Letters: N unlabelled samples, M labelled samples, K classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aplt.labeler.sums import ClassSums, chunks, class_ids, largest

# More than the relative error of a norm, and than what rounding adds up to over the iterations.
_SLACK = 2.0**-10


@dataclass(frozen=True, eq=False, slots=True)
class Clustering:
    """Centres, and for each sample the nearest of them and its Euclidean distance to it."""

    centroids_KD: Tensor
    assignments_N: Tensor
    distances_N: Tensor
    num_iterations: int
    converged: bool


@torch.no_grad()
def semi_supervised_kmeans(
    unlabeled_ND: Tensor,
    labeled_MD: Tensor,
    labels_M: Tensor,
    *,
    num_classes: int,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
) -> Clustering:
    """Return the clusters of the unlabelled samples around labelled ones that never leave their class.

    Centres start as the means of the labelled samples of each class; then every unlabelled sample goes to its nearest
    centre (the lowest class of equally near ones) and every centre to the mean of all samples of its class. It stops
    when the summed shift of the centres, squared, is at most `tolerance` times the mean squared norm of the features.
    Assignments and distances belong to the centres returned. Permuting samples changes nothing but their order.

    Source: APLT (IJCAI 2025), section 3.2; constrained k-means of generalized category discovery (CVPR 2022).
    Raises ValueError for features that are not finite, labels out of range and a class without a labelled sample.
    """
    max_abs = max(largest(unlabeled_ND, "unlabeled_ND"), largest(labeled_MD, "labeled_MD"))
    _check_settings(unlabeled_ND, labeled_MD, "labeled_MD", max_iterations, tolerance)
    classes_M = class_ids(
        labels_M, name="labels_M", num_rows=len(labeled_MD), num_classes=num_classes, device=unlabeled_ND.device
    )
    sums = ClassSums(
        num_classes,
        unlabeled_ND.shape[1],
        max_rows=len(unlabeled_ND) + len(labeled_MD),
        max_abs=max_abs,
        device=unlabeled_ND.device,
    )
    sums.add(labeled_MD, classes_M)
    missing = (sums.counts_K == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"every class needs a labelled sample to start from, but classes {missing} of {num_classes} have none: "
            "label a clip of each, or remove the class"
        )
    norms_N, norms_M = _norms(unlabeled_ND, max_abs), _norms(labeled_MD, max_abs)
    mean_square = float(torch.cat([norms_N, norms_M]).square().mean())
    return _lloyd(
        unlabeled_ND,
        norms_N,
        sums.means(),
        sums,
        max_abs=max_abs,
        max_iterations=max_iterations,
        stop_at=tolerance * mean_square,
    )


@torch.no_grad()
def kmeans(
    features_ND: Tensor, centroids_KD: Tensor, *, max_iterations: int = 100, tolerance: float = 1e-4
) -> Clustering:
    """Return the clusters of plain k-means (Lloyd) from the given centres, as `semi_supervised_kmeans` without anchors.

    A centre that loses all its samples stays where it is. For the ablation "SSL+KM" the features are those of all
    clips, labelled ones too, and the centres the labelled means, which makes clusters and classes the same thing.
    Raises ValueError for features that are not finite.
    """
    max_abs = largest(features_ND, "features_ND")
    largest(centroids_KD, "centroids_KD")
    _check_settings(features_ND, centroids_KD, "centroids_KD", max_iterations, tolerance)
    if len(centroids_KD) == 0:
        raise ValueError("centroids_KD must hold at least one centre to start from")
    num_classes, num_features = centroids_KD.shape
    sums = ClassSums(num_classes, num_features, max_rows=len(features_ND), max_abs=max_abs, device=features_ND.device)
    norms_N = _norms(features_ND, max_abs)
    mean_square = float(norms_N.square().sum()) / max(1, len(features_ND))
    return _lloyd(
        features_ND,
        norms_N,
        centroids_KD.double(),
        sums,
        max_abs=max_abs,
        max_iterations=max_iterations,
        stop_at=tolerance * mean_square,
    )


def _lloyd(
    features_ND: Tensor,
    norms_N: Tensor,
    start_KD: Tensor,
    sums: ClassSums,
    *,
    max_abs: float,
    max_iterations: int,
    stop_at: float,
) -> Clustering:
    """Iterate from the centres `start_KD`; `sums` holds the anchors, if any, and follows the samples as they move."""
    search = _Search(features_ND, norms_N, start_KD)
    sums.add(features_ND, search.nearest_N)
    num_iterations = 1
    while True:
        centroids_KD = sums.means(search.centroids_KD)
        shift = float((centroids_KD - search.centroids_KD).norm(dim=1).sum())
        converged = shift**2 <= stop_at
        former_N = search.nearest_N.clone()
        if shift > 0:
            search.follow(centroids_KD)
        if converged or num_iterations == max_iterations:
            break
        sums.move(features_ND, former_N, search.nearest_N)
        num_iterations += 1
    distances_N = _distances(features_ND, centroids_KD, search.nearest_N, max_abs)
    return Clustering(centroids_KD.to(distances_N.dtype), search.nearest_N, distances_N, num_iterations, converged)


class _Search:
    """The nearest centre of each sample, looked up again only where the centres have moved enough to change it.

    The matrix product decides, except for samples whose two best centres it cannot tell apart with certainty: float64
    differences decide those. So the result is the exact one, however the product happens to round.
    """

    def __init__(self, features_ND: Tensor, norms_N: Tensor, centroids_KD: Tensor):
        self._features_ND, self._norms_N, self.centroids_KD = features_ND, norms_N, centroids_KD
        self.nearest_N = torch.zeros(len(features_ND), dtype=torch.int64, device=features_ND.device)
        # By how much any other centre's squared distance surely exceeds the nearest one's.
        self._leads_N = torch.zeros_like(norms_N)
        self._largest_norm = float(norms_N.max()) if len(norms_N) else 0.0
        # A smaller lead than this is for the float64 differences to see. No centre ever gets longer than its class's
        # start or its longest sample.
        longest = max(self._largest_norm, float(centroids_KD.norm(dim=1).max()))
        self._least_lead = _rounding(torch.float64, features_ND.shape[1]) * (2 * longest) ** 2
        self._look_up()

    def follow(self, centroids_KD: Tensor) -> None:
        """Bring `nearest_N` up to date with centres that have moved."""
        shifts_KD, twice_KD = centroids_KD - self.centroids_KD, centroids_KD + self.centroids_KD
        # |x - c|^2 - |x - b|^2 changes by the change of |c|^2 - |b|^2, less 2 x (shift of c - shift of b).
        squares_K = (shifts_KD * twice_KD).sum(dim=1)
        products_K = shifts_KD.norm(dim=1) * twice_KD.norm(dim=1)
        rounding = _rounding(torch.float64, shifts_KD.shape[1]) * products_K.max()
        losses_K = (1 + _SLACK) * (squares_K - squares_K.min() + rounding)
        distances_KK = torch.cdist(shifts_KD, shifts_KD, compute_mode="donot_use_mm_for_euclid_dist")
        slopes_K = (1 + _SLACK) * 2 * distances_KK.amax(dim=1)
        self._leads_N -= losses_K.index_select(0, self.nearest_N)
        self._leads_N.addcmul_(slopes_K.index_select(0, self.nearest_N), self._norms_N, value=-1)
        self.centroids_KD = centroids_KD
        self._look_up()

    def _look_up(self) -> None:
        """Find the nearest centre of each sample that has lost its lead."""
        # |x - c|^2 - |x - m|^2 = (c - m)(c + m) - 2 x (c - m): differences from the middle m of the centres keep the
        # product small when all features share a large offset.
        middle_D = self.centroids_KD.mean(dim=0)
        offsets_KD = self.centroids_KD - middle_D
        constants_K = (offsets_KD * (self.centroids_KD + middle_D)).sum(dim=1)

        # Reduced-precision products (TF32, bfloat16) would leave every sample uncertain.
        full = torch.get_float32_matmul_precision() == "highest"
        dtype = _compute_dtype(self._features_ND) if full else torch.float64
        left_KD, start_K1 = offsets_KD.to(dtype), constants_K.to(dtype)[:, None]
        num_features = self._features_ND.shape[1]
        unit = _rounding(dtype, num_features)
        largest_offset, largest_constant = float(offsets_KD.norm(dim=1).max()), float(constants_K.abs().max())
        floor = unit * largest_constant + (num_features + 4) * torch.finfo(dtype).tiny
        if not largest_constant + 2 * largest_offset * self._largest_norm < torch.finfo(dtype).max:
            floor = torch.inf  # scores may overflow and tell nothing

        with torch.autocast(self._features_ND.device.type, enabled=False):
            for rows, size in self._open_rows():
                scores_KB = torch.empty(len(left_KD), size, dtype=dtype, device=left_KD.device)
                for part in chunks(self._features_ND, width=8 * num_features, rows=size):
                    chunk_BD = _take(self._features_ND, rows, part).to(dtype)
                    torch.addmm(start_K1, left_KD, chunk_BD.T, alpha=-2, out=scores_KB[:, part])
                best_B, nearest_B = scores_KB.min(dim=0)
                rivals_B = scores_KB.scatter_(0, nearest_B[None], torch.inf).amin(dim=0)
                rounding_B = unit * largest_offset * self._norms_N[rows] + floor
                self._leads_N[rows] = rivals_B.sub_(best_B).double().sub_(rounding_B).mul_(1 - _SLACK)
                self.nearest_N[rows] = nearest_B
        unsure_U = self._open()
        for part in chunks(self._features_ND, width=16 * num_features, rows=len(unsure_U)):
            chunk_UD = _take(self._features_ND, unsure_U, part).double()
            self.nearest_N[unsure_U[part]] = _nearest(chunk_UD, self.centroids_KD)

    def _open(self) -> Tensor:
        """Return the rows without a lead. Negated, so that scores that overflowed count as such too."""
        return (~(self._leads_N > self._least_lead)).nonzero().flatten()

    def _open_rows(self) -> Iterator[tuple[slice | Tensor, int]]:
        """Yield the rows to look up, some at a time, and how many they are."""
        open_U = self._open()
        # Picking rows costs a copy: not worth it for most of them.
        most = len(open_U) > 0.75 * len(self._features_ND)
        num_rows = len(self._features_ND) if most else len(open_U)
        for part in chunks(self._features_ND, width=8 * len(self.centroids_KD), rows=num_rows):
            yield part if most else open_U[part], part.stop - part.start


def _take(features_ND: Tensor, rows: slice | Tensor, part: slice) -> Tensor:
    """Return the features of `part` of these rows."""
    return features_ND[rows][part] if isinstance(rows, slice) else features_ND.index_select(0, rows[part])


def _rounding(dtype: torch.dtype, num_features: int) -> float:
    """Return twice the worst error of a sum of that many products, relative to the sum of their sizes."""
    return 2 * (num_features + 4) * torch.finfo(dtype).eps


def _distances(features_ND: Tensor, centroids_KD: Tensor, nearest_N: Tensor, max_abs: float) -> Tensor:
    """Return the distance of each sample to its centre, as exact as the type of the features allows."""
    dtype, scale = _compute_dtype(features_ND), _safe_scale(max_abs)
    # A centre as the sum of two numbers of that type: then the differences lose nothing to its rounding.
    high_KD = centroids_KD.to(dtype)
    low_KD = (centroids_KD - high_KD.double()).to(dtype)
    distances_N = torch.empty(len(features_ND), dtype=dtype, device=features_ND.device)
    for rows in chunks(features_ND, width=16 * features_ND.shape[1]):
        nearest_B = nearest_N[rows]
        differences_BD = features_ND[rows] - high_KD.index_select(0, nearest_B)
        differences_BD -= low_KD.index_select(0, nearest_B)
        distances_N[rows] = _scaled_norms(differences_BD, scale)
    return distances_N.div_(scale)


def _nearest(features_UD: Tensor, centroids_KD: Tensor) -> Tensor:
    """Return the nearest centre of each sample, the lowest of equally near ones, from differences in float64."""
    squared_KU = torch.stack([(features_UD - centroid_D).square_().sum(dim=1) for centroid_D in centroids_KD])
    return squared_KU.argmin(dim=0)


def _norms(features_ND: Tensor, max_abs: float) -> Tensor:
    """Return the float64 norms, computed in the type of the features."""
    norms_N = torch.empty(len(features_ND), dtype=torch.float64, device=features_ND.device)
    dtype, scale = _compute_dtype(features_ND), _safe_scale(max_abs)
    for rows in chunks(features_ND):
        norms_N[rows] = _scaled_norms(features_ND[rows].to(dtype), scale).double()
    return norms_N.div_(scale)


def _safe_scale(max_abs: float) -> float:
    """Return the power of two by which to multiply features so that no square in float32 overflows or vanishes."""
    exponent = math.frexp(max_abs)[1]
    return 1.0 if -16 < exponent < 48 else math.ldexp(1.0, max(-126, min(-exponent, 126)))


def _scaled_norms(features_BD: Tensor, scale: float) -> Tensor:
    norms_B: Tensor = torch.linalg.vector_norm(features_BD if scale == 1 else features_BD * scale, dim=1)
    return norms_B


def _compute_dtype(features_ND: Tensor) -> torch.dtype:
    return torch.float64 if features_ND.dtype == torch.float64 else torch.float32


def _check_settings(features_ND: Tensor, others_MD: Tensor, name: str, max_iterations: int, tolerance: float) -> None:
    if features_ND.shape[1] != others_MD.shape[1] or features_ND.device != others_MD.device:
        raise ValueError(
            f"{name} must have {features_ND.shape[1]} features and lie on {features_ND.device} like the samples to "
            f"cluster, got {others_MD.shape[1]} features on {others_MD.device}"
        )
    if max_iterations < 1 or not tolerance >= 0:
        raise ValueError(
            f"max_iterations must be at least 1 and tolerance at least 0, got {max_iterations} and {tolerance}"
        )
