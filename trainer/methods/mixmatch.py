"""MixMatch: labelled clips, and unlabelled ones with guessed labels, are mixed with each other.

Letters: B batch, N the clips of all views of a step, K classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import MixMatchConfig
from aplt.trainer.losses import ramp_up
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views, frozen_statistics
from aplt.trainer.ranks import joint, own_part


class MixMatch(Method[MixMatchConfig]):
    """MixMatch (Berthelot et al., NeurIPS 2019), with two weak views; predicts with the parametric head."""

    uses_unlabeled_strong: ClassVar[bool] = False
    uses_unlabeled_weak_2: ClassVar[bool] = True

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_x + a(t) lambda_u L_u, all mixed clips in one forward."""
        assert batch.unlabeled_weak is not None
        assert batch.unlabeled_weak_2 is not None
        with torch.no_grad(), frozen_statistics(model):
            guesses = forward_views(model, batch.unlabeled_weak, batch.unlabeled_weak_2)
        guess_BK = sharpen(*(logits.softmax(dim=1) for _, logits in guesses), temperature=self.config.sharpening)
        clips = torch.cat([joint(batch.labeled_weak), joint(batch.unlabeled_weak), joint(batch.unlabeled_weak_2)])
        targets_NK = torch.cat([F.one_hot(batch.labels_B, self.num_classes).float(), guess_BK, guess_BK])

        order_N = torch.randperm(len(clips)).to(clips.device)
        share_N = own_shares(len(clips), alpha=self.config.alpha).to(clips.device)
        ((features_ND, logits_NK),) = forward_views(model, own_part(mix(clips, order_N, share_N)))
        targets_NK = mix(targets_NK, order_N, share_N)

        num_x = len(batch.labels_B)
        sup_logits = F.cross_entropy(logits_NK[:num_x], targets_NK[:num_x])
        u_probabilities = F.mse_loss(logits_NK[num_x:].softmax(dim=1), targets_NK[num_x:])
        return StepOutput(
            loss=sup_logits + ramp_up(batch.progress, self.config.ramp) * self.config.lambda_u * u_probabilities,
            parts={"sup_logits": sup_logits.detach(), "u_probabilities": u_probabilities.detach()},
            labeled_features_BD=features_ND[:num_x].detach(),
            unlabeled_features_BD=guesses[0][0],
            online_labels_B=guess_BK.argmax(dim=1),
        )


def sharpen(*probabilities_BK: Tensor, temperature: float) -> Tensor:
    """Return the mean of several predictions to the power of 1 / temperature, made to sum to 1 again (Eq. 7)."""
    powered_BK = torch.stack(probabilities_BK).mean(dim=0) ** (1 / temperature)
    return powered_BK / powered_BK.sum(dim=1, keepdim=True)


def own_shares(num: int, *, alpha: float) -> Tensor:
    """Return max(l, 1 - l) [num] with l from Beta(alpha, alpha): at least half of each mixture is the clip itself.

    One draw per clip, from the CPU's generator. With alpha 0 nothing is mixed.
    """
    if alpha == 0:
        return torch.ones(num)
    share_N = torch.distributions.Beta(alpha, alpha).sample((num,))
    return torch.maximum(share_N, 1 - share_N)


def mix(values: Tensor, order_N: Tensor, share_N: Tensor) -> Tensor:
    """Return share * value + (1 - share) * the value that stands in its place in `order_N`; [N, ...]."""
    share = share_N.view(-1, *[1] * (values.dim() - 1))
    return share * values + (1 - share) * values[order_N]
