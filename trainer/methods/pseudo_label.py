"""Pseudo-Label: confident predictions become the labels of the very views that they were made on."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from aplt.trainer.config import PseudoLabelConfig
from aplt.trainer.losses import cross_entropy, pseudo_label_loss, pseudo_labels, ramp_up
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views


class PseudoLabel(Method[PseudoLabelConfig]):
    """Pseudo-Label (Lee, ICML workshop 2013); predicts with the parametric head."""

    uses_unlabeled_strong: ClassVar[bool] = False

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + a(t) lambda_u L_u; target and prediction come from the same forward of the weak view."""
        (features_x, logits_x), (features_u, logits_u) = forward_views(model, batch.labeled_weak, batch.unlabeled_weak)
        online_B = pseudo_labels(logits_u, tau=self.config.tau)
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        u_logits = pseudo_label_loss(logits_u, online_B)
        return StepOutput(
            loss=sup_logits + ramp_up(batch.progress, self.config.ramp) * self.config.lambda_u * u_logits,
            parts={"sup_logits": sup_logits.detach(), "u_logits": u_logits.detach()},
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )
