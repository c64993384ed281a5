"""The losses that methods are made of, and the learning-rate schedule.

Letters: B batch, K classes, D features. Nothing here looks at values on the host, so a step never waits for the GPU.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

UNUSED = -1
"""The pseudo-label of a sample that takes no part in a loss."""


def cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return the mean cross-entropy of labelled samples (Eq. 1, APLT, IJCAI 2025)."""
    return F.cross_entropy(logits_BK, labels_B.long())


def pseudo_labels(logits_BK: Tensor, *, tau: float | Tensor) -> Tensor:
    """Return the predicted class where its probability is at least `tau`, UNUSED elsewhere; it carries no gradient.

    `tau` is one number for all classes, or a tensor [K] with one per class. The mask and the target of Eq. 2; FixMatch
    (NeurIPS 2020), Eq. 4.
    """
    confidence_B, classes_B = logits_BK.detach().softmax(dim=1).max(dim=1)
    if isinstance(tau, Tensor):
        tau = tau[classes_B]
    return classes_B.masked_fill_(~(confidence_B >= tau), UNUSED)


@torch.no_grad()
def prototype_labels(features_BD: Tensor, prototypes_KD: Tensor, thresholds_K: Tensor) -> Tensor:
    """Return the class of the largest dot product where its prototype is nearer than its threshold, UNUSED elsewhere.

    The online pseudo-labels of the ablation "SYN" (Table 4, APLT, IJCAI 2025), in the features' full precision.
    """
    with torch.autocast(features_BD.device.type, enabled=False):
        features_BD = features_BD.float()
        classes_B = (features_BD @ prototypes_KD.float().T).argmax(dim=1)
        distances_B = torch.linalg.vector_norm(features_BD - prototypes_KD[classes_B], dim=1)
    return classes_B.masked_fill_(~(distances_B < thresholds_K[classes_B]), UNUSED)


def pseudo_label_loss(logits_BK: Tensor, pseudo_B: Tensor, *, reduction: Literal["batch", "kept"] = "batch") -> Tensor:
    """Return the cross-entropy of samples with a pseudo-label, summed and divided by the whole batch (Eq. 2).

    With `reduction="kept"` it is divided by the number of samples that have one.
    """
    return _masked_cross_entropy(logits_BK, pseudo_B, reduction=reduction)


def margin_loss(
    features_BD: Tensor,
    prototypes_KD: Tensor,
    targets_B: Tensor,
    *,
    keep_B: Tensor | None = None,
    temperature: float = 1.0,
    reduction: Literal["batch", "kept"] = "batch",
) -> Tensor:
    """Return the cross-entropy of the similarities to fixed prototypes (Eqs. 6 and 7, APLT, IJCAI 2025).

    Similarities are dot products over `temperature`, always in the features' full precision; pass unit vectors for
    cosines. Samples outside `keep_B` add nothing, and their targets may be anything. The sum is divided by the batch,
    or by the number of kept samples with `reduction="kept"`. Prototypes get no gradient.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if reduction not in ("batch", "kept"):
        raise ValueError(f"reduction must be batch or kept, got {reduction!r}")
    with torch.autocast(features_BD.device.type, enabled=False):
        logits_BK = features_BD.float() @ prototypes_KD.detach().float().T / temperature
    if keep_B is None:
        return F.cross_entropy(logits_BK, targets_B.long())
    return _masked_cross_entropy(logits_BK, targets_B.long().masked_fill(~keep_B, UNUSED), reduction=reduction)


def ramp_up(progress: float, length: float) -> float:
    """Return a weight that rises linearly from 0 to 1 over the first `length` (a share) of the training."""
    return min(1.0, progress / length) if length > 0 else 1.0


def cosine_lr(step: float, total: float, lr0: float) -> float:
    """Return the learning rate after `step` of `total` steps: one half cosine from `lr0` to zero."""
    if not 0 <= step <= total or total <= 0:
        raise ValueError(f"step must lie in 0..total and total be above 0, got step {step} of {total}")
    return 0.5 * lr0 * (1 + math.cos(math.pi * step / total))


def _masked_cross_entropy(logits_BK: Tensor, targets_B: Tensor, *, reduction: Literal["batch", "kept"]) -> Tensor:
    # ignore_index rather than a product with the mask: an unused sample may have infinite loss, and 0 * inf is NaN.
    total = F.cross_entropy(logits_BK, targets_B, ignore_index=UNUSED, reduction="sum")
    if reduction == "kept":
        return total / (targets_B != UNUSED).sum().clamp_min(1)
    return total / max(1, len(targets_B))
