"""InfoMatch: FreeMatch's thresholds for two strong views, whose logits come to agree, and for a CutMix of weak ones.

Letters: B batch, H W the side of a view, K classes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import InfoMatchConfig
from aplt.trainer.losses import UNUSED, cross_entropy, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views
from aplt.trainer.methods.freematch import class_thresholds
from aplt.trainer.methods.mixmatch import own_shares
from aplt.trainer.ranks import joint, own_part

INFORMATION_WEIGHT = 0.001
"""Of the agreement of the strong views, within the unlabelled loss."""


class InfoMatch(Method[InfoMatchConfig]):
    """InfoMatch (Han et al., IJCAI 2024); predicts with the parametric head.

    State, moving averages over the weak views: `tau`, the largest probability, and `mean` [K], the probabilities. Both
    start at 1/K; no clip is looked at before training.
    """

    uses_unlabeled_strong_2: ClassVar[bool] = True

    def __init__(self, config: InfoMatchConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.tau: Tensor
        self.mean: Tensor
        self.register_buffer("tau", torch.tensor(1 / self.num_classes))
        self.register_buffer("mean", torch.full((self.num_classes,), 1 / self.num_classes))

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + lambda_u L_u; the state takes this step in before the thresholds are used."""
        assert batch.unlabeled_weak is not None
        weak = joint(batch.unlabeled_weak)
        order_B = torch.randperm(len(weak)).to(weak.device)
        inside = draw_boxes(len(weak), weak.shape[-2], weak.shape[-1]).to(weak.device)
        (features_x, logits_x), (features_u, logits_u), (_, logits_cm), (_, logits_s1), (_, logits_s2) = forward_views(
            model,
            batch.labeled_weak,
            batch.unlabeled_weak,
            own_part(torch.where(inside, weak[order_B], weak)),
            batch.unlabeled_strong,
            batch.unlabeled_strong_2,
        )
        self.observe(logits_u.detach().softmax(dim=1))
        online_B = pseudo_labels(logits_u, tau=class_thresholds(self.tau, self.mean))
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        u_cutmix = cutmix_loss(logits_cm, online_B, order_B, own_share_B=own_share(inside))
        u_strong = (pseudo_label_loss(logits_s1, online_B) + pseudo_label_loss(logits_s2, online_B)) / 2
        information = disagreement(logits_s1, logits_s2)
        u_logits = (u_cutmix + u_strong) / 2 + INFORMATION_WEIGHT * information
        return StepOutput(
            loss=sup_logits + self.config.lambda_u * u_logits,
            parts={
                "sup_logits": sup_logits.detach(),
                "u_cutmix": u_cutmix.detach(),
                "u_strong": u_strong.detach(),
                "information": information.detach(),
                "tau": self.tau.clone(),
            },
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )

    def observe(self, weak_BK: Tensor) -> None:
        """Take the probabilities of weak views into the moving averages."""
        new = 1 - self.config.momentum
        self.tau.lerp_(weak_BK.amax(dim=1).mean(), new)
        self.mean.lerp_(weak_BK.mean(dim=0), new)


def draw_boxes(num: int, height: int, width: int) -> Tensor:
    """Return where a random box lies in each clip, bool [num, 1, 1, height, width]: the same in all its frames.

    CutMix (Yun et al., ICCV 2019): the box has the views' proportions, at most half their area and any centre; what is
    beyond the border is cut off. One draw per clip, from the CPU's generator.
    """
    scale_B = (1 - own_shares(num, alpha=1.0)).sqrt()
    rows_BH = _intervals(height, scale_B)
    columns_BW = _intervals(width, scale_B)
    return (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None, None]


def _intervals(length: int, scale_B: Tensor) -> Tensor:
    half_B1 = (length * scale_B).int()[:, None] // 2
    centre_B1 = torch.randint(length, half_B1.shape)
    place_L = torch.arange(length)
    return (place_L >= centre_B1 - half_B1) & (place_L < centre_B1 + half_B1)


def own_share(inside: Tensor) -> Tensor:
    """Return the share of each clip [B] that lies outside its box [B, 1, 1, H, W]."""
    return 1 - inside.float().mean(dim=(1, 2, 3, 4))


def cutmix_loss(logits_BK: Tensor, pseudo_B: Tensor, order_B: Tensor, *, own_share_B: Tensor) -> Tensor:
    """Return the mean cross-entropy of mixed views to the pseudo-labels of both clips, weighted by their shares.

    The clip inside the box of view b is `order_B[b]`. A clip without a pseudo-label adds nothing; the other one does.
    """
    own_B, other_B = (
        F.cross_entropy(logits_BK, targets_B, ignore_index=UNUSED, reduction="none")
        for targets_B in (pseudo_B, pseudo_B[order_B])
    )
    return (own_share_B * own_B + (1 - own_share_B) * other_B).mean()


def disagreement(first_BK: Tensor, second_BK: Tensor) -> Tensor:
    """Return the mean squared difference of two sets of logits, each row standardised over the classes.

    It is 2 (1 - r) (K - 1) / K with the correlation r of a clip's two rows, averaged over the clips. Gradients flow to
    both. A row of equal logits becomes zeros.
    """
    return F.mse_loss(_standardised(first_BK), _standardised(second_BK))


def _standardised(logits_BK: Tensor) -> Tensor:
    centred_BK = logits_BK - logits_BK.mean(dim=1, keepdim=True)
    variance_B1 = centred_BK.square().sum(dim=1, keepdim=True) / (logits_BK.shape[1] - 1)
    # The root of something else where it is zero, since its gradient there is infinite even if the root is not used.
    some_B1 = variance_B1 > 1e-12
    return torch.where(some_B1, centred_BK * torch.where(some_B1, variance_B1, 1.0).rsqrt(), 0.0)
