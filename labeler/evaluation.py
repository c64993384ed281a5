"""Accuracies and pseudo-label precision: the only place where ground truth meets what the services made.

Letters: T test clips, N unlabelled clips, K classes, D features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aplt.common.artifacts import LabelVersion
from aplt.common.features import normalized


def prototype_predictions(
    features_TD: NDArray[np.float32], prototypes_KD: NDArray[np.float32], *, normalize: str
) -> NDArray[np.int16]:
    """Return argmax_c F . rho_c for each clip: how APLT classifies at test time (paper, section 3.4)."""
    scores_TK = normalized(torch.from_numpy(features_TD), normalize) @ torch.from_numpy(prototypes_KD).T
    predictions: NDArray[np.int16] = scores_TK.argmax(dim=1).numpy().astype(np.int16)
    return predictions


def accuracy_scalars(
    predictions_T: NDArray[np.int16], truth_T: NDArray[np.int16], *, num_classes: int, prefix: str
) -> dict[str, float]:
    """Return top-1, macro (mean over the classes that occur) and per-class accuracy over clips whose class is known."""
    known = truth_T >= 0
    if not known.any():
        return {}
    right, truth = (predictions_T == truth_T)[known], truth_T[known]
    per_class = {c: float(right[truth == c].mean()) for c in range(num_classes) if (truth == c).any()}
    return {
        f"{prefix}/accuracy": float(right.mean()),
        f"{prefix}/macro": float(np.mean(list(per_class.values()))),
        **{f"{prefix}/class_{c}": value for c, value in per_class.items()},
    }


def label_quality(labels: LabelVersion, truth: NDArray[np.int16], *, num_classes: int) -> dict[str, float]:
    """Return how right a label version is: precision of the kept clips, overall and by class; accuracy of all clips.

    Args:
        labels: The version to judge.
        truth: Known classes by manifest row, -1 where unknown.
        num_classes: K.
    """
    truth_N = truth[labels.rows_N]
    known = truth_N >= 0
    right = labels.labels_N == truth_N
    kept = labels.kept_N & known
    values = {"labels/known": float(known.sum()), "labels/kept_known": float(kept.sum())}
    if known.any():
        values["labels/accuracy_all"] = float(right[known].mean())
    if kept.any():
        values["labels/precision"] = float(right[kept].mean())
    for c in range(num_classes):
        of_class = kept & (labels.labels_N == c)
        if of_class.any():
            values[f"labels/precision_class_{c}"] = float(right[of_class].mean())
    return values


def online_quality(online_N: NDArray[Any], rows_N: NDArray[np.int32], truth: NDArray[np.int16]) -> dict[str, float]:
    """Return share and precision of the parametric head's pseudo-labels that passed during the epoch."""
    passed = online_N >= 0
    known = passed & (truth[rows_N] >= 0)
    values = {"online/passed_share": float(passed.mean()) if len(passed) else 0.0}
    if known.any():
        values["online/precision"] = float((online_N == truth[rows_N])[known].mean())
    return values
