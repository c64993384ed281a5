"""Labelled clips only: the baseline of every table of the paper."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from aplt.trainer.config import SupervisedConfig
from aplt.trainer.losses import cross_entropy
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views


class Supervised(Method[SupervisedConfig]):
    """Cross-entropy on weakly augmented labelled clips (APLT paper, Eq. 1), for as many steps as the other methods."""

    uses_unlabeled: ClassVar[bool] = False

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = H(y, p(w(x))), averaged over the batch."""
        ((features_BD, logits_BK),) = forward_views(model, batch.labeled_weak)
        loss = cross_entropy(logits_BK, batch.labels_B)
        return StepOutput(loss=loss, parts={"sup_logits": loss.detach()}, labeled_features_BD=features_BD.detach())
