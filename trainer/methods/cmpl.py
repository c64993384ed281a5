"""CMPL: two networks of different width label weak views for each other's strong views.

Letters: B batch, K classes.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from aplt.common.models import VideoClassifier
from aplt.trainer.config import CMPLConfig
from aplt.trainer.losses import cross_entropy, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views


class CMPL(Method[CMPLConfig]):
    """Cross-model pseudo-labelling (Xu et al., CVPR 2022); the primary network predicts, with the parametric head.

    State: `auxiliary`, a narrower network with first weights of its own, trained with the primary on the same views.
    """

    def __init__(self, config: CMPLConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.auxiliary: nn.Module

    def begin(self, model: nn.Module) -> None:
        """The auxiliary network has half the primary one's channels."""
        assert isinstance(model, VideoClassifier)
        self.auxiliary = model.narrower()

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s(F) + L_s(A) + lambda_u (L_u(F) + L_u(A)), where each network has the other's pseudo-labels."""
        views = (batch.labeled_weak, batch.unlabeled_weak, batch.unlabeled_strong)
        (features_x, primary_x), (features_u, primary_u), (_, primary_s) = forward_views(model, *views)
        (_, auxiliary_x), (_, auxiliary_u), (_, auxiliary_s) = forward_views(self.auxiliary, *views)

        from_primary_B = pseudo_labels(primary_u, tau=self.config.tau)
        from_auxiliary_B = pseudo_labels(auxiliary_u, tau=self.config.tau)
        sup_logits = cross_entropy(primary_x, batch.labels_B)
        sup_auxiliary = cross_entropy(auxiliary_x, batch.labels_B)
        u_logits = pseudo_label_loss(primary_s, from_auxiliary_B)
        u_auxiliary = pseudo_label_loss(auxiliary_s, from_primary_B)
        return StepOutput(
            loss=sup_logits + sup_auxiliary + self.config.lambda_u * (u_logits + u_auxiliary),
            parts={
                "sup_logits": sup_logits.detach(),
                "u_logits": u_logits.detach(),
                "sup_auxiliary": sup_auxiliary.detach(),
                "u_auxiliary": u_auxiliary.detach(),
            },
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=from_auxiliary_B,
        )
