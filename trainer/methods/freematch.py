"""FreeMatch: FixMatch with thresholds that follow the network's own confidence, and a term for class fairness.

Letters: B batch, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import FreeMatchConfig
from aplt.trainer.losses import UNUSED, cross_entropy, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views


class FreeMatch(Method[FreeMatchConfig]):
    """Self-adaptive thresholding (Wang et al., ICLR 2023); predicts with the parametric head.

    State, moving averages over the weak views: `tau`, the largest probability; `mean` [K], the probabilities; and
    `histogram` [K], the shares of the predicted classes. All start at 1/K; no clip is looked at before training.
    """

    def __init__(self, config: FreeMatchConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.tau: Tensor
        self.mean: Tensor
        self.histogram: Tensor
        uniform = 1 / self.num_classes
        self.register_buffer("tau", torch.tensor(uniform))
        self.register_buffer("mean", torch.full((self.num_classes,), uniform))
        self.register_buffer("histogram", torch.full((self.num_classes,), uniform))

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + lambda_u L_u + lambda_fairness L_f; the state takes this step in before the thresholds are used."""
        (features_x, logits_x), (features_u, logits_u), (_, logits_su) = forward_views(
            model, batch.labeled_weak, batch.unlabeled_weak, batch.unlabeled_strong
        )
        self.observe(logits_u.detach().softmax(dim=1))
        online_B = pseudo_labels(logits_u, tau=self.thresholds())
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        u_logits = pseudo_label_loss(logits_su, online_B)
        fairness = fairness_loss(logits_su, online_B != UNUSED, mean_K=self.mean, histogram_K=self.histogram)
        return StepOutput(
            loss=sup_logits + self.config.lambda_u * u_logits + self.config.lambda_fairness * fairness,
            parts={
                "sup_logits": sup_logits.detach(),
                "u_logits": u_logits.detach(),
                "fairness": fairness.detach(),
                "tau": self.tau.clone(),
            },
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )

    def observe(self, weak_BK: Tensor) -> None:
        """Take the probabilities of weak views into the moving averages."""
        confidence_B, classes_B = weak_BK.max(dim=1)
        new = 1 - self.config.momentum
        self.tau.lerp_(confidence_B.mean(), new)
        self.mean.lerp_(weak_BK.mean(dim=0), new)
        self.histogram.lerp_(F.one_hot(classes_B, self.num_classes).float().mean(dim=0), new)

    def thresholds(self) -> Tensor:
        """Return the threshold of each class [K]: the global one, less for classes seldom predicted."""
        return class_thresholds(self.tau, self.mean)


def class_thresholds(tau: Tensor, mean_K: Tensor) -> Tensor:
    """Return tau * mean / max mean [K]: self-adaptive thresholding (section 4.1)."""
    return tau * mean_K / mean_K.max()


def fairness_loss(logits_BK: Tensor, keep_B: Tensor, *, mean_K: Tensor, histogram_K: Tensor) -> Tensor:
    """Return sum_k a_k log b_k over the strong views in `keep_B`, 0 if there are none (self-adaptive fairness).

    a and b are the mean probabilities over the predicted shares, of the moving averages and of these views. Gradients
    flow through the mean probabilities of the views alone. A class that no view is predicted as adds a constant,
    a_k log 1e-12: with few clips in a batch the value says little.
    """
    strong_BK = logits_BK.softmax(dim=1)
    predicted_BK = F.one_hot(strong_BK.detach().argmax(dim=1), logits_BK.shape[1]).float()
    weight_B1 = keep_B[:, None] / keep_B.sum().clamp_min(1)
    a_K = _fair_shares(mean_K, histogram_K)
    b_K = _fair_shares((weight_B1 * strong_BK).sum(dim=0), (weight_B1 * predicted_BK).sum(dim=0))
    return torch.where(keep_B.any(), (a_K * (b_K + 1e-12).log()).sum(), 0.0)


def _fair_shares(mean_K: Tensor, histogram_K: Tensor) -> Tensor:
    # The inverse by itself, since the gradient of a quotient by zero is NaN even where the quotient is not used.
    inverse_K = torch.where(histogram_K > 0, 1 / histogram_K, 0.0)
    ratio_K = mean_K * inverse_K
    return ratio_K / ratio_K.sum().clamp_min(1e-12)
