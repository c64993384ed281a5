"""FixMatch: confident predictions on weak views teach the strong views."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from aplt.trainer.config import FixMatchConfig
from aplt.trainer.losses import cross_entropy, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views


class FixMatch(Method[FixMatchConfig]):
    """FixMatch (Sohn et al., NeurIPS 2020), as in Eqs. 1-3 of the APLT paper; predicts with the parametric head.

    With offline labels (Table 4, ASY) these take the place of the predictions from the first label version on.
    """

    uses_unlabeled: ClassVar[bool] = True

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_sup_logits + lambda_u L_u_logits, all views in one forward."""
        (features_BD, logits_x), (features_u, logits_u), (_, logits_su) = forward_views(
            model, batch.labeled_weak, batch.unlabeled_weak, batch.unlabeled_strong
        )
        online_B = pseudo_labels(logits_u, tau=self.config.tau)
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        target_B = online_B
        if self.labels_version > 0:
            assert batch.position_B is not None
            target_B = self.label[batch.position_B]
        u_logits = pseudo_label_loss(logits_su, target_B)
        return StepOutput(
            loss=sup_logits + self.config.lambda_u * u_logits,
            parts={"sup_logits": sup_logits.detach(), "u_logits": u_logits.detach()},
            labeled_features_BD=features_BD.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )
