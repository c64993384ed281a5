"""One offline phase: features to a label version (APLT paper, section 3.3). Pure: no store, no network, no clock.

Letters: N unlabelled clips, M labelled clips, A augmented labelled clips, K classes, D features.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from aplt.common.artifacts import LabelVersion
from aplt.common.features import normalized
from aplt.labeler.clustering import Clustering, kmeans, semi_supervised_kmeans
from aplt.labeler.prototypes import build_prototypes
from aplt.labeler.thresholds import Thresholds, fixed_threshold, self_adaptive_thresholds


def make_labels(
    *,
    version: int,
    epoch: int,
    rows_N: NDArray[np.int32],
    unlabeled_ND: Tensor,
    labeled_MD: Tensor,
    labels_M: Tensor,
    augmented_AD: Tensor | None,
    augmented_labels_A: Tensor | None,
    num_classes: int,
    normalize: str,
    max_iterations: int,
    tolerance: float,
    sat_scale: float,
    filtered_prototypes: bool,
    strategy: Literal["sskm", "kmeans"] = "sskm",
    threshold: Literal["adaptive", "none"] = "adaptive",
    sat_min_count: int = 1,
    sat_squared: bool = False,
    augmented_prototypes: bool = False,
) -> LabelVersion:
    """Return pseudo-labels, thresholds and prototypes from the features of one checkpoint.

    Cluster around the labelled clips and their augmented copies, keep what lies closer to its centre than its class's
    self-adaptive threshold (Eq. 4), and average labelled and kept clips into prototypes (Eq. 5). Augmented copies
    steer the clustering alone. Prototypes are normalised like the features, so that a dot product compares directions.
    The arguments with defaults are for ablations, see LabelerConfig.
    """
    features_ND = normalized(torch.cat([labeled_MD, unlabeled_ND]), normalize)
    labeled_MD, unlabeled_ND = features_ND[: len(labels_M)], features_ND[len(labels_M) :]
    anchors_MD, anchor_labels_M = labeled_MD, labels_M
    if augmented_AD is not None and augmented_labels_A is not None:
        anchors_MD = torch.cat([labeled_MD, normalized(augmented_AD, normalize)])
        anchor_labels_M = torch.cat([labels_M, augmented_labels_A])

    if strategy == "kmeans":
        clustering = _without_anchors(unlabeled_ND, anchors_MD, anchor_labels_M, num_classes, max_iterations, tolerance)
    else:
        clustering = semi_supervised_kmeans(
            unlabeled_ND,
            anchors_MD,
            anchor_labels_M,
            num_classes=num_classes,
            max_iterations=max_iterations,
            tolerance=tolerance,
        )
    if threshold == "none":
        thresholds = fixed_threshold(clustering.distances_N, clustering.assignments_N, num_classes=num_classes)
    else:
        thresholds = self_adaptive_thresholds(
            clustering.distances_N,
            clustering.assignments_N,
            num_classes=num_classes,
            sat_scale=sat_scale,
            min_count=sat_min_count,
            squared=sat_squared,
        )
    if augmented_prototypes:
        features_ND = torch.cat([anchors_MD, unlabeled_ND])
        labels_M = anchor_labels_M
    return _label_version(
        version=version,
        epoch=epoch,
        rows_N=rows_N,
        features_ND=features_ND,
        labels_M=labels_M,
        clustering=clustering,
        thresholds=thresholds,
        num_classes=num_classes,
        normalize=normalize,
        filtered_prototypes=filtered_prototypes,
    )


def labels_of_head(
    *,
    version: int,
    epoch: int,
    rows_N: NDArray[np.int32],
    unlabeled_ND: Tensor,
    logits_NK: Tensor,
    labeled_MD: Tensor,
    labels_M: Tensor,
    num_classes: int,
    normalize: str,
    filtered_prototypes: bool,
    tau: float,
) -> LabelVersion:
    """Return the parametric head's predictions, kept where it is at least `tau` sure of them (Table 4, "ASY").

    Nothing is clustered: the distance of a clip is 1 - confidence, and centres are the means of labelled and assigned
    clips.
    """
    features_ND = normalized(torch.cat([labeled_MD, unlabeled_ND]), normalize)
    confidence_N, classes_N = logits_NK.softmax(dim=1).max(dim=1)
    doubt_N, most_doubt = 1 - confidence_N, float(1 - confidence_N.new_tensor(tau))
    means = build_prototypes(features_ND, torch.cat([labels_M, classes_N]), num_classes=num_classes)
    return _label_version(
        version=version,
        epoch=epoch,
        rows_N=rows_N,
        features_ND=features_ND,
        labels_M=labels_M,
        clustering=Clustering(means.vectors_KD, classes_N, doubt_N, num_iterations=0, converged=True),
        thresholds=fixed_threshold(doubt_N, classes_N, num_classes=num_classes, at_most=most_doubt),
        num_classes=num_classes,
        normalize=normalize,
        filtered_prototypes=filtered_prototypes,
    )


def _without_anchors(
    unlabeled_ND: Tensor, anchors_MD: Tensor, labels_M: Tensor, num_classes: int, max_iterations: int, tolerance: float
) -> Clustering:
    """Return what plain k-means over all clips, from the means of the labelled ones, makes of the unlabelled ones."""
    start_KD = build_prototypes(anchors_MD, labels_M, num_classes=num_classes).vectors_KD
    both_ND = torch.cat([anchors_MD, unlabeled_ND])
    found = kmeans(both_ND, start_KD, max_iterations=max_iterations, tolerance=tolerance)
    rest = slice(len(anchors_MD), None)
    return replace(found, assignments_N=found.assignments_N[rest], distances_N=found.distances_N[rest])


def _label_version(
    *,
    version: int,
    epoch: int,
    rows_N: NDArray[np.int32],
    features_ND: Tensor,
    labels_M: Tensor,
    clustering: Clustering,
    thresholds: Thresholds,
    num_classes: int,
    normalize: str,
    filtered_prototypes: bool,
) -> LabelVersion:
    """Return the record, with the means of labelled clips, which come first in `features_ND`, and unlabelled ones."""
    kept_N = thresholds.keep(clustering.distances_N, clustering.assignments_N)
    used_N = kept_N if filtered_prototypes else torch.ones_like(kept_N)
    prototypes = build_prototypes(
        features_ND,
        torch.cat([labels_M, clustering.assignments_N]),
        num_classes=num_classes,
        keep_N=torch.cat([torch.ones_like(labels_M, dtype=torch.bool), used_N]),
    )
    return LabelVersion(
        version=version,
        epoch=epoch,
        rows_N=rows_N,
        labels_N=clustering.assignments_N.cpu().numpy().astype(np.int16),
        distances_N=clustering.distances_N.float().cpu().numpy(),
        kept_N=kept_N.cpu().numpy(),
        centroids_KD=clustering.centroids_KD.float().cpu().numpy(),
        prototypes_KD=normalized(prototypes.vectors_KD, normalize).float().cpu().numpy(),
        support_K=prototypes.support_K.cpu().numpy().astype(np.int64),
        local_K=thresholds.local_K.float().cpu().numpy(),
        adaptive_K=thresholds.adaptive_K.float().cpu().numpy(),
        global_threshold=float(thresholds.global_threshold),
        ratio=float(thresholds.ratio),
        num_iterations=clustering.num_iterations,
        converged=clustering.converged,
    )


def label_summary(labels: LabelVersion) -> dict[str, JsonValue]:
    """Return what people look at first; nothing in it needs ground truth."""
    num_classes = len(labels.support_K)
    assigned_K = np.bincount(labels.labels_N, minlength=num_classes)
    kept_K = np.bincount(labels.labels_N[labels.kept_N], minlength=num_classes)
    return {
        "clips": len(labels.rows_N),
        "kept": int(labels.kept_N.sum()),
        "kept_share": float(labels.kept_N.mean()) if len(labels.kept_N) else 0.0,
        "ratio": labels.ratio,
        "global_threshold": labels.global_threshold,
        "iterations": labels.num_iterations,
        "converged": labels.converged,
        "per_class": [
            {
                "assigned": int(assigned_K[c]),
                "kept": int(kept_K[c]),
                "support": int(labels.support_K[c]),
                "local_threshold": float(labels.local_K[c]),
                "adaptive_threshold": float(labels.adaptive_K[c]),
            }
            for c in range(num_classes)
        ],
    }
