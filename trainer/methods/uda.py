"""UDA: sharpened predictions on weak views teach the strong views.

Letters: B batch, K classes.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import UDAConfig
from aplt.trainer.losses import UNUSED, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views

Schedule = Literal["none", "linear", "exp", "log"]


class UDA(Method[UDAConfig]):
    """Unsupervised data augmentation (Xie et al., NeurIPS 2020); predicts with the parametric head."""

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + lambda_u L_u, all views in one forward."""
        (features_x, logits_x), (features_u, logits_u), (_, logits_su) = forward_views(
            model, batch.labeled_weak, batch.unlabeled_weak, batch.unlabeled_strong
        )
        eta = annealed_threshold(batch.progress, self.config.tsa, num_classes=self.num_classes)
        online_B = pseudo_labels(logits_u, tau=self.config.tau)
        targets_BK = sharpened(logits_u, temperature=self.config.sharpening)
        sup_logits = annealed_cross_entropy(logits_x, batch.labels_B, eta=eta)
        u_logits = soft_target_loss(logits_su, targets_BK, keep_B=online_B != UNUSED)
        return StepOutput(
            loss=sup_logits + self.config.lambda_u * u_logits,
            parts={"sup_logits": sup_logits.detach(), "u_logits": u_logits.detach()},
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )


def sharpened(logits_BK: Tensor, *, temperature: float) -> Tensor:
    """Return softmax(logits / temperature), without gradient: prediction sharpening."""
    return (logits_BK.detach() / temperature).softmax(dim=1)


def soft_target_loss(logits_BK: Tensor, targets_BK: Tensor, *, keep_B: Tensor) -> Tensor:
    """Return the cross-entropy to soft targets of the samples in `keep_B`, summed and divided by the whole batch."""
    losses_B = F.cross_entropy(logits_BK, targets_BK, reduction="none")
    return losses_B.masked_fill(~keep_B, 0.0).sum() / len(losses_B)


def annealed_threshold(progress: float, schedule: Schedule, *, num_classes: int) -> float:
    """Return eta: it rises from 1/K to 1 with the training's `progress`, and is 1 all along with none."""
    match schedule:
        case "none":
            return 1.0
        case "linear":
            share = progress
        case "exp":
            share = math.exp(5 * (progress - 1))
        case "log":
            share = 1 - math.exp(-5 * progress)
    return share * (1 - 1 / num_classes) + 1 / num_classes


def annealed_cross_entropy(logits_BK: Tensor, labels_B: Tensor, *, eta: float) -> Tensor:
    """Return the cross-entropy of samples whose true class has a probability of at most `eta`, over the batch."""
    losses_B = F.cross_entropy(logits_BK, labels_B.long(), reduction="none")
    # The loss is minus the logarithm of that probability.
    return losses_B.masked_fill(losses_B.detach() < -math.log(eta), 0.0).mean()
