"""Semi-supervised k-means, and plain k-means for the ablation.

Letters: N unlabelled samples, M labelled samples, K classes, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aplt.labeler.sums import ClassSums, chunks, class_ids, largest


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
    for rows in chunks(labeled_MD):
        sums.add(labeled_MD[rows], classes_M[rows])
    missing = (sums.counts_K == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"every class needs a labelled sample to start from, but classes {missing} of {num_classes} have none: "
            "label a clip of each, or remove the class"
        )
    norms_N, norms_M = _norms(unlabeled_ND), _norms(labeled_MD)
    mean_square = float(torch.cat([norms_N, norms_M]).square().mean())
    return _lloyd(
        unlabeled_ND, norms_N, sums.means(), sums, max_iterations=max_iterations, stop_at=tolerance * mean_square
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
    norms_N = _norms(features_ND)
    mean_square = float(norms_N.square().sum()) / max(1, len(features_ND))
    return _lloyd(
        features_ND,
        norms_N,
        centroids_KD.double(),
        sums,
        max_iterations=max_iterations,
        stop_at=tolerance * mean_square,
    )


def _lloyd(
    features_ND: Tensor,
    norms_N: Tensor,
    start_KD: Tensor,
    sums: ClassSums,
    *,
    max_iterations: int,
    stop_at: float,
) -> Clustering:
    """Iterate from the centres `start_KD`; `sums` holds the anchors, if any, and follows the samples as they move."""
    norms_N = norms_N.to(_compute_dtype(features_ND))
    assignments_N = torch.full((len(features_ND),), -1, dtype=torch.int64, device=features_ND.device)
    centroids_KD, converged, num_iterations = start_KD, False, 0
    while not converged and num_iterations < max_iterations:
        _assign(features_ND, norms_N, centroids_KD, assignments_N, sums)
        previous_KD, centroids_KD = centroids_KD, sums.means(centroids_KD)
        shift = float((centroids_KD - previous_KD).norm(dim=1).sum())
        converged = shift**2 <= stop_at
        num_iterations += 1
    if shift > 0:
        _assign(features_ND, norms_N, centroids_KD, assignments_N, None)
    distances_N = torch.empty_like(norms_N)
    for rows in chunks(features_ND):
        distances_N[rows] = (features_ND[rows] - centroids_KD[assignments_N[rows]]).square_().sum(1).sqrt_()
    return Clustering(centroids_KD.to(distances_N.dtype), assignments_N, distances_N, num_iterations, converged)


def _assign(
    features_ND: Tensor, norms_N: Tensor, centroids_KD: Tensor, assignments_N: Tensor, sums: ClassSums | None
) -> None:
    """Put the nearest centre of each sample into `assignments_N`, and move those that changed in `sums`.

    The matrix product decides, except for samples whose two best centres it cannot tell apart with certainty: float64
    differences decide those. So the result is the exact one, however the product happens to round.
    """
    # |x - c|^2 - |x - m|^2 = (c - m)(c + m) - 2 x (c - m): differences from the middle m of the centres keep the
    # product small when all features share a large offset.
    middle_D = centroids_KD.mean(dim=0)
    offsets_KD = centroids_KD - middle_D
    constants_K = (offsets_KD * (centroids_KD + middle_D)).sum(dim=1)

    # Reduced-precision products (TF32, bfloat16) would leave every sample uncertain.
    full = torch.get_float32_matmul_precision() == "highest"
    dtype = _compute_dtype(features_ND) if full else torch.float64
    left_KD, start_K1 = offsets_KD.to(dtype), constants_K.to(dtype)[:, None]
    # Twice the worst rounding error of a score: products and their sum, the rounded centre, the constant, underflow.
    limits, num_terms = torch.finfo(dtype), features_ND.shape[1] + 4
    unit = 2 * num_terms * limits.eps
    slope = unit * float(offsets_KD.norm(dim=1).max())
    floor = unit * float(constants_K.abs().max()) + num_terms * limits.tiny

    for rows in chunks(features_ND, num_classes=len(centroids_KD)):
        chunk_BD = features_ND[rows]
        with torch.autocast(features_ND.device.type, enabled=False):
            scores_KB = torch.addmm(start_K1, left_KD, chunk_BD.to(dtype).T, alpha=-2)
        best_B, nearest_B = scores_KB.min(dim=0)
        # Negated, so that scores that overflowed count as uncertain too.
        rivals_B = (~(scores_KB > best_B + (slope * norms_N[rows] + floor))).sum(dim=0)
        unsure_U = (rivals_B > 1).nonzero().flatten()
        if len(unsure_U):
            nearest_B[unsure_U] = _nearest(chunk_BD[unsure_U].double(), centroids_KD)

        former_B = assignments_N[rows]
        if sums is not None:
            moved_U = (nearest_B != former_B).nonzero().flatten()
            if len(moved_U):
                moved_UD, from_U = chunk_BD[moved_U], former_B[moved_U]
                sums.add(moved_UD, nearest_B[moved_U])
                if int(from_U[0]) >= 0:  # in the first iteration nobody has been anywhere
                    sums.add(moved_UD, from_U, sign=-1)
        former_B.copy_(nearest_B)


def _nearest(features_UD: Tensor, centroids_KD: Tensor) -> Tensor:
    """Return the nearest centre of each sample, the lowest of equally near ones, from differences in float64."""
    squared_KU = torch.stack([(features_UD - centroid_D).square_().sum(dim=1) for centroid_D in centroids_KD])
    return squared_KU.argmin(dim=0)


def _norms(features_ND: Tensor) -> Tensor:
    norms_N = torch.empty(len(features_ND), dtype=torch.float64, device=features_ND.device)
    for rows in chunks(features_ND):
        norms_N[rows] = torch.linalg.vector_norm(features_ND[rows], dim=1, dtype=torch.float64)
    return norms_N


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
