"""FlexMatch: FixMatch with a threshold for each class, lower where fewer clips were learnt so far.

Letters: B batch, K classes, N unlabelled clips.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aplt.trainer.config import FlexMatchConfig
from aplt.trainer.losses import UNUSED, cross_entropy, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views


class FlexMatch(Method[FlexMatchConfig]):
    """Curriculum pseudo-labelling (Zhang et al., NeurIPS 2021); predicts with the parametric head.

    State: `selected` [N], the class of the last prediction of each unlabelled clip that reached tau, -1 where none has;
    `status` [K], how well each class is learnt. At first it is 0, and every clip passes.
    """

    def __init__(self, config: FlexMatchConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.selected: Tensor
        self.status: Tensor
        self.register_buffer("selected", torch.full((self.num_unlabeled,), UNUSED))
        self.register_buffer("status", torch.zeros(self.num_classes))

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + lambda_u L_u with the thresholds of the step before."""
        (features_x, logits_x), (features_u, logits_u), (_, logits_su) = forward_views(
            model, batch.labeled_weak, batch.unlabeled_weak, batch.unlabeled_strong
        )
        online_B = pseudo_labels(logits_u, tau=flexible_thresholds(self.status, tau=self.config.tau))
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        u_logits = pseudo_label_loss(logits_su, online_B)
        assert batch.position_B is not None
        self.select(batch.position_B, pseudo_labels(logits_u, tau=self.config.tau))
        return StepOutput(
            loss=sup_logits + self.config.lambda_u * u_logits,
            parts={"sup_logits": sup_logits.detach(), "u_logits": u_logits.detach()},
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )

    def select(self, position_B: Tensor, confident_B: Tensor) -> None:
        """Note predictions that reached the fixed tau; others (-1) leave what was noted before."""
        self.selected[position_B] = torch.where(confident_B == UNUSED, self.selected[position_B], confident_B)
        self.status.copy_(
            learning_status(self.selected, num_classes=self.num_classes, warm_up=self.config.threshold_warmup)
        )


def learning_status(selected_N: Tensor, *, num_classes: int, warm_up: bool) -> Tensor:
    """Return beta [K]: the clips selected for each class over those of the largest class (FlexMatch, section 3.1).

    With `warm_up`, over the number of clips that were never selected if that is larger (section 3.2).
    """
    counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=selected_N.device)
    counts.index_add_(0, selected_N - UNUSED, torch.ones_like(selected_N))
    never, count_K = counts[0], counts[1:]
    largest = count_K.max()
    if warm_up:
        largest = torch.maximum(largest, never)
    return count_K / largest.clamp_min(1)


def flexible_thresholds(status_K: Tensor, *, tau: float) -> Tensor:
    """Return tau * beta / (2 - beta), the convex mapping of FlexMatch (section 3.3)."""
    return tau * status_K / (2 - status_K)
