"""SoftMatch: every clip teaches, with less weight the further its confidence lies below the mean.

Letters: B batch, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import SoftMatchConfig
from aplt.trainer.losses import cross_entropy
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views


class SoftMatch(Method[SoftMatchConfig]):
    """Truncated Gaussian weights and uniform alignment (Chen et al., ICLR 2023); predicts with the parametric head.

    State, moving averages over the weak views: `mean` [K], the probabilities, all 0 before the first step; `mu` and
    `variance`, of the largest aligned probability. `labeled` [K] counts the labelled clips seen.
    """

    def __init__(self, config: SoftMatchConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.mean: Tensor
        self.mu: Tensor
        self.variance: Tensor
        self.labeled: Tensor
        self.register_buffer("mean", torch.zeros(self.num_classes))
        self.register_buffer("mu", torch.tensor(1 / self.num_classes))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("labeled", torch.zeros(self.num_classes, dtype=torch.int64))

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + lambda_u L_u; weights look at aligned probabilities, pseudo-labels at those before alignment."""
        (features_x, logits_x), (features_u, logits_u), (_, logits_su) = forward_views(
            model, batch.labeled_weak, batch.unlabeled_weak, batch.unlabeled_strong
        )
        weak_BK = logits_u.detach().softmax(dim=1)
        online_B = weak_BK.argmax(dim=1)
        self.labeled.index_add_(0, batch.labels_B, torch.ones_like(batch.labels_B))
        confidence_B = self.observe(weak_BK)
        weight_B = gaussian_weights(confidence_B, mu=self.mu, variance=self.variance, n_sigma=self.config.n_sigma)
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        u_logits = (weight_B * F.cross_entropy(logits_su, online_B, reduction="none")).mean()
        return StepOutput(
            loss=sup_logits + self.config.lambda_u * u_logits,
            parts={"sup_logits": sup_logits.detach(), "u_logits": u_logits.detach(), "weight": weight_B.mean()},
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )

    def observe(self, weak_BK: Tensor) -> Tensor:
        """Take the probabilities of weak views into the moving averages; returns their largest aligned ones [B].

        First the mean that alignment divides by, then mean and variance of what is aligned.
        A single clip has no variance, and leaves it as it is.
        """
        new = 1 - self.config.momentum
        batch_K = weak_BK.mean(dim=0)
        self.mean.copy_(torch.where(self.mean.any(), self.mean.lerp(batch_K, new), batch_K))
        confidence_B = aligned(weak_BK, mean_K=self.mean, target_K=self._target()).max(dim=1).values
        self.mu.lerp_(confidence_B.mean(), new)
        if len(confidence_B) > 1:
            self.variance.lerp_(confidence_B.var(), new)
        return confidence_B

    def _target(self) -> Tensor:
        if self.config.align_to == "labeled":
            return self.labeled / self.labeled.sum()
        return torch.full_like(self.mean, 1 / self.num_classes)


def aligned(weak_BK: Tensor, *, mean_K: Tensor, target_K: Tensor) -> Tensor:
    """Return the probabilities times target over mean, made to sum to 1 again (SoftMatch, section 3.2)."""
    scaled_BK = weak_BK * (target_K + 1e-6) / (mean_K + 1e-6)
    return scaled_BK / scaled_BK.sum(dim=1, keepdim=True)


def gaussian_weights(confidence_B: Tensor, *, mu: Tensor, variance: Tensor, n_sigma: float) -> Tensor:
    """Return 1 from the mean on, and a Gaussian of variance / n_sigma^2 below it (SoftMatch, section 3.1)."""
    below_B = (confidence_B - mu).clamp_max(0.0)
    # No variance at all, as between clips that are all alike, is a step rather than 0/0.
    return torch.exp(-(below_B**2) / (2 * variance / n_sigma**2).clamp_min(torch.finfo(torch.float32).tiny))
