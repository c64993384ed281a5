"""FineSSL: margins for classes that are learnt less, and a second head that says how far a pseudo-label is trusted.

Letters: B batch, K classes, N unlabelled clips.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import FineSSLConfig
from aplt.trainer.losses import UNUSED, cross_entropy, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views
from aplt.trainer.methods.flexmatch import learning_status


class FineSSL(Method[FineSSLConfig]):
    """FineSSL (Gan and Wei, ICML 2024) for a network that is trained whole; the network's own, main head predicts.

    State: `auxiliary`, a head like the main one, which starts as a copy and is trained with the network, on features
    that it passes no gradient to; `selected` [N], the class of the last prediction in this epoch of each unlabelled
    clip that reached tau, -1 where none has.
    """

    uses_unlabeled_strong_2: ClassVar[bool] = True

    def __init__(self, config: FineSSLConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.auxiliary: nn.Module
        self.selected: Tensor
        self.register_buffer("selected", torch.full((self.num_unlabeled,), UNUSED))

    def begin(self, model: nn.Module) -> None:
        """The auxiliary head starts as a copy of the main one."""
        self.auxiliary = copy.deepcopy(model.get_submodule("head"))

    def start_epoch(self) -> None:
        """What is learnt is judged within an epoch."""
        self.selected.fill_(UNUSED)

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_x + lambda_u L_u + lambda_auxiliary (L_x' + L_u') with the margins of the step before."""
        (features_x, logits_x), (features_u, logits_u), (features_s1, logits_s1), (features_s2, logits_s2) = (
            forward_views(
                model, batch.labeled_weak, batch.unlabeled_weak, batch.unlabeled_strong, batch.unlabeled_strong_2
            )
        )
        auxiliary_x, auxiliary_u, auxiliary_s1, auxiliary_s2 = (
            self.auxiliary(features.detach()).float() for features in (features_x, features_u, features_s1, features_s2)
        )
        status_K = learning_status(self.selected, num_classes=self.num_classes, warm_up=False)
        margins_K = class_margins(status_K, alpha=self.config.alpha)
        online_B = pseudo_labels(logits_u, tau=self.config.tau)
        guess_B = logits_u.detach().argmax(dim=1).repeat(2)
        trust_B = auxiliary_u.detach().softmax(dim=1).amax(dim=1).repeat(2)

        sup_logits = cross_entropy(with_margin(logits_x, batch.labels_B, margins_K), batch.labels_B)
        moved_BK = with_margin(torch.cat([logits_s1, logits_s2]), guess_B, margins_K)
        u_logits = (trust_B * F.cross_entropy(moved_BK, guess_B, reduction="none")).mean()
        sup_auxiliary = cross_entropy(auxiliary_x, batch.labels_B)
        u_auxiliary = smoothed_loss(
            torch.cat([auxiliary_s1, auxiliary_s2]), online_B.repeat(2), smoothing=self.config.smoothing
        )
        assert batch.position_B is not None
        self.select(batch.position_B, online_B)
        return StepOutput(
            loss=sup_logits
            + self.config.lambda_u * u_logits
            + self.config.lambda_auxiliary * (sup_auxiliary + u_auxiliary),
            parts={
                "sup_logits": sup_logits.detach(),
                "u_logits": u_logits.detach(),
                "sup_auxiliary": sup_auxiliary.detach(),
                "u_auxiliary": u_auxiliary.detach(),
                "trust": trust_B.mean(),
            },
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )

    def select(self, position_B: Tensor, confident_B: Tensor) -> None:
        """Note predictions that reached tau; others (-1) leave what was noted before in this epoch."""
        self.selected[position_B] = torch.where(confident_B == UNUSED, self.selected[position_B], confident_B)


def class_margins(status_K: Tensor, *, alpha: float) -> Tensor:
    """Return alpha (max s - min s) (1 - s) / (1 + s) [K] for the learning status s: 0 for the class learnt best."""
    return alpha * (status_K.max() - status_K.min()) * (1 - status_K) / (1 + status_K)


def with_margin(logits_BK: Tensor, targets_B: Tensor, margins_K: Tensor) -> Tensor:
    """Return the logits with those of all classes but the target raised by the target's margin."""
    others_BK = 1 - F.one_hot(targets_B.long(), logits_BK.shape[1])
    return logits_BK + margins_K[targets_B][:, None] * others_BK


def smoothed_loss(logits_BK: Tensor, pseudo_B: Tensor, *, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of the clips with a pseudo-label, 0 if there are none.

    A target has 1 - smoothing for that class, and the rest in equal parts for the others.
    """
    num_classes = logits_BK.shape[1]
    kept_B = pseudo_B != UNUSED
    own_BK = F.one_hot(pseudo_B.clamp_min(0), num_classes)
    targets_BK = torch.where(own_BK == 1, 1 - smoothing, smoothing / (num_classes - 1))
    losses_B = F.cross_entropy(logits_BK, targets_BK, reduction="none")
    return losses_B.where(kept_B, 0.0).sum() / kept_B.sum().clamp_min(1)
