"""APLT: FixMatch, plus a fixed prototype classifier that is trained towards pseudo-labels from offline clustering."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.common.artifacts import LabelVersion
from aplt.trainer.config import APLTConfig
from aplt.trainer.losses import cross_entropy, margin_loss, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views, int_tensor


class APLT(Method[APLTConfig]):
    """Asynchronous pseudo-labelling and training (Zhang et al., IJCAI 2025), Eqs. 1-9; predicts with the prototypes.

    State: `rho` [K, D], the prototypes, and `label` [Nu], the offline label of each unlabelled clip, -1 where it was
    screened out. Both stay as they are between two label versions. Before the first one this is FixMatch.
    """

    uses_labeled_strong: ClassVar[bool] = True

    def __init__(
        self, config: APLTConfig, *, num_classes: int, feature_dim: int, num_unlabeled: int, normalize: str
    ) -> None:
        super().__init__(
            config,
            num_classes=num_classes,
            feature_dim=feature_dim,
            num_unlabeled=num_unlabeled,
            normalize=normalize,
        )
        self.rho: Tensor
        self.label: Tensor
        self.version: Tensor
        self.register_buffer("rho", torch.zeros(num_classes, feature_dim))
        self.register_buffer("label", torch.full((num_unlabeled,), -1, dtype=torch.int64))
        self.register_buffer("version", torch.zeros((), dtype=torch.int64))

    @property
    def labels_version(self) -> int:
        """The label version in use, 0 before the first."""
        return int(self.version)

    def adopt(self, labels: LabelVersion) -> None:
        """Take over prototypes and kept labels; the rows of `labels` are the unlabelled clips in their order."""
        kept_N = torch.from_numpy(labels.kept_N.copy())
        label_N = torch.where(kept_N, int_tensor(labels.labels_N), -1)
        self.rho.copy_(torch.from_numpy(labels.prototypes_KD.copy()))
        self.label.copy_(label_N)
        self.version.fill_(labels.version)

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_logits + lambda L_margin (Eq. 9); during the warm-up L_logits alone (Eq. 3)."""
        warm_up = self.labels_version == 0
        views = forward_views(
            model,
            batch.labeled_weak,
            batch.unlabeled_weak,
            batch.unlabeled_strong,
            None if warm_up else batch.labeled_strong,
        )
        (features_x, logits_x), (features_u, logits_u), (features_su, logits_su) = views[:3]

        online_B = pseudo_labels(logits_u, tau=self.config.tau)
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        u_logits = pseudo_label_loss(logits_su, online_B)
        loss = sup_logits + self.config.lambda_u * u_logits
        parts = {"sup_logits": sup_logits.detach(), "u_logits": u_logits.detach()}

        if not warm_up:
            assert batch.position_B is not None
            (features_sx, _) = views[3]
            offline_B = self.label[batch.position_B]
            sup_margin = self._margin(features_sx, batch.labels_B)
            u_margin = self._margin(features_su, offline_B.clamp_min(0), keep_B=offline_B >= 0)
            loss = loss + self.config.lambda_margin * (sup_margin + u_margin)
            parts |= {"sup_margin": sup_margin.detach(), "u_margin": u_margin.detach()}

        return StepOutput(
            loss=loss,
            parts=parts,
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )

    def _margin(self, features_BD: Tensor, targets_B: Tensor, keep_B: Tensor | None = None) -> Tensor:
        if self.normalize == "l2":
            features_BD = F.normalize(features_BD)
        return margin_loss(
            features_BD,
            self.rho,
            targets_B,
            keep_B=keep_B,
            temperature=self.config.temperature,
            reduction=self.config.margin_reduction,
        )
