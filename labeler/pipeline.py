"""One offline phase: features to a label version (APLT paper, section 3.3). Pure: no store, no network, no clock.

Letters: N unlabelled clips, M labelled clips, A augmented labelled clips, K classes, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from aplt.common.artifacts import LabelVersion
from aplt.common.features import normalized
from aplt.labeler.clustering import semi_supervised_kmeans
from aplt.labeler.prototypes import build_prototypes
from aplt.labeler.thresholds import self_adaptive_thresholds


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
) -> LabelVersion:
    """Return pseudo-labels, thresholds and prototypes from the features of one checkpoint.

    Cluster around the labelled clips and their augmented copies, keep what lies closer to its centre than its class's
    self-adaptive threshold (Eq. 4), and average labelled and kept clips into prototypes (Eq. 5). Augmented copies
    steer the clustering alone. Prototypes are normalised like the features, so that a dot product compares directions.
    """
    features_ND = normalized(torch.cat([labeled_MD, unlabeled_ND]), normalize)
    labeled_MD, unlabeled_ND = features_ND[: len(labels_M)], features_ND[len(labels_M) :]
    anchors_MD, anchor_labels_M = labeled_MD, labels_M
    if augmented_AD is not None and augmented_labels_A is not None:
        anchors_MD = torch.cat([labeled_MD, normalized(augmented_AD, normalize)])
        anchor_labels_M = torch.cat([labels_M, augmented_labels_A])

    clustering = semi_supervised_kmeans(
        unlabeled_ND,
        anchors_MD,
        anchor_labels_M,
        num_classes=num_classes,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    thresholds = self_adaptive_thresholds(
        clustering.distances_N, clustering.assignments_N, num_classes=num_classes, sat_scale=sat_scale
    )
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
