"""APLT: FixMatch, plus a fixed prototype classifier that is trained towards pseudo-labels from offline clustering."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.common.artifacts import LabelVersion
from aplt.trainer.config import APLTConfig
from aplt.trainer.losses import cross_entropy, margin_loss, prototype_labels, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views


class APLT(Method[APLTConfig]):
    """Asynchronous pseudo-labelling and training (Zhang et al., IJCAI 2025), Eqs. 1-9; predicts with the prototypes.

    State: `rho` [K, D], the prototypes, and `label` [Nu], the offline label of each unlabelled clip, -1 where it was
    screened out; with online pseudo-labels `threshold` [K] too, the distances that screen them. All stay as they are
    between two label versions. Before the first one this is FixMatch.
    """

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
        self.threshold: Tensor
        self.register_buffer("rho", torch.zeros(num_classes, feature_dim))
        if config.pseudo_labels == "online":
            self.register_buffer("threshold", torch.zeros(num_classes))

    @property
    def uses_labeled_strong(self) -> bool:
        """From the first label version on, for the margin loss of the labelled clips."""
        prototypes = self.config.classifier == "prototypes" and self.config.margin_view == "strong"
        return self.labels_version > 0 and prototypes

    def adopt(self, labels: LabelVersion) -> None:
        """Take over prototypes and kept labels; the rows of `labels` are the unlabelled clips in their order."""
        super().adopt(labels)
        self.rho.copy_(torch.from_numpy(labels.prototypes_KD.copy()))
        if self.config.pseudo_labels == "online":
            # What screened out nothing is no threshold.
            threshold_K = torch.from_numpy(labels.adaptive_K.copy())
            self.threshold.copy_(torch.full_like(threshold_K, torch.inf) if labels.kept_N.all() else threshold_K)

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
        (features_x, logits_x), (features_u, logits_u), (_, logits_su) = views[:3]

        online_B = pseudo_labels(logits_u, tau=self.config.tau)
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        u_logits = pseudo_label_loss(logits_su, online_B)
        loss = sup_logits + self.config.lambda_u * u_logits
        parts = {"sup_logits": sup_logits.detach(), "u_logits": u_logits.detach()}

        if not warm_up:
            offline, offline_parts = self._offline_loss(batch, views)
            loss = loss + self.config.lambda_margin * offline
            parts |= offline_parts

        return StepOutput(
            loss=loss,
            parts=parts,
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )

    def _offline_loss(self, batch: Batch, views: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_margin = L_sup_margin + L_u_margin (Eqs. 7 and 8) and its parts; in Variant I the head's loss."""
        (features_x, _), (features_u, logits_u), (features_su, logits_su) = views[:3]
        assert batch.position_B is not None
        weak = self.config.margin_view == "weak"
        label_B = self.label[batch.position_B]
        if self.config.classifier == "parametric":
            logits = logits_u if weak else logits_su
            u_offline = pseudo_label_loss(logits, label_B, reduction=self.config.margin_reduction)
            return u_offline, {"u_offline": u_offline.detach()}
        parts = {}
        if self.config.pseudo_labels == "online":
            label_B = prototype_labels(self._normalized(features_u), self.rho, self.threshold)
            parts["margin_share"] = (label_B >= 0).float().mean()
        sup_margin = self._margin(features_x if weak else views[3][0], batch.labels_B)
        u_margin = self._margin(features_u if weak else features_su, label_B.clamp_min(0), keep_B=label_B >= 0)
        return sup_margin + u_margin, {**parts, "sup_margin": sup_margin.detach(), "u_margin": u_margin.detach()}

    def _normalized(self, features_BD: Tensor) -> Tensor:
        return F.normalize(features_BD) if self.normalize == "l2" else features_BD

    def _margin(self, features_BD: Tensor, targets_B: Tensor, keep_B: Tensor | None = None) -> Tensor:
        return margin_loss(
            self._normalized(features_BD),
            self.rho,
            targets_B,
            keep_B=keep_B,
            temperature=self.config.temperature,
            reduction=self.config.margin_reduction,
        )
