"""Class prototypes: the classifier that the offline phase hands to training and testing.

Letters: N samples, K classes, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aplt.labeler.sums import ClassSums, chunks, class_ids, largest


@dataclass(frozen=True, eq=False, slots=True)
class Prototypes:
    """The mean feature of each class, and of how many samples it is the mean."""

    vectors_KD: Tensor
    support_K: Tensor


@torch.no_grad()
def build_prototypes(
    features_ND: Tensor, labels_N: Tensor, *, num_classes: int, keep_N: Tensor | None = None
) -> Prototypes:
    """Return the mean of the kept features of each class (Eq. 5, APLT, IJCAI 2025), not normalised.

    The samples are the labelled and the pseudo-labelled ones together; `keep_N` is True for those that count (all, if
    not given), and the labels of the others may be anything. Means have the type of the features, at least float32.
    Raises ValueError for features that are not finite, labels out of range and a class without a kept sample.
    """
    device = features_ND.device
    max_abs = largest(features_ND, "features_ND")
    kept_N = torch.ones(len(features_ND), dtype=torch.bool, device=device) if keep_N is None else keep_N.to(device)
    if kept_N.dtype != torch.bool or kept_N.shape != (len(features_ND),):
        raise ValueError(
            f"keep_N must be {len(features_ND)} booleans, one per sample, "
            f"got {kept_N.dtype} of shape {tuple(kept_N.shape)}"
        )
    if labels_N.shape == kept_N.shape:
        labels_N = labels_N.to(device).masked_fill(~kept_N, 0)
    classes_N = class_ids(labels_N, name="labels_N", num_rows=len(features_ND), num_classes=num_classes, device=device)
    sums = ClassSums(num_classes, features_ND.shape[1], max_rows=len(features_ND), max_abs=max_abs, device=device)
    kept_U = kept_N.nonzero().flatten()
    for part in chunks(features_ND, rows=len(kept_U)):
        rows_U = kept_U[part]
        sums.add(features_ND.index_select(0, rows_U), classes_N[rows_U])
    missing = (sums.counts_K == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"every class needs a sample for its prototype, but classes {missing} of {num_classes} have none: "
            "pass the labelled samples together with the pseudo-labelled ones"
        )
    dtype = torch.promote_types(features_ND.dtype, torch.float32)
    return Prototypes(sums.means().to(dtype), sums.counts_K)
