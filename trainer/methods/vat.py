"""VAT: predictions stay what they are under the small change of a clip that moves them most.

Letters: B batch, K classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import VATConfig
from aplt.trainer.losses import cross_entropy, ramp_up
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views, frozen_statistics
from aplt.trainer.ranks import joint, own_part


class VAT(Method[VATConfig]):
    """Virtual adversarial training with entropy minimisation (Miyato et al., TPAMI 2019); the parametric head predicts.

    Labelled clips have a forward of their own. All forwards of the unlabelled ones normalise with the statistics of
    the same clips, and leave the running ones alone: a difference of predictions is then due to the perturbation.
    """

    uses_unlabeled_strong: ClassVar[bool] = False

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + a(t) lambda_u L_vat + lambda_entropy H."""
        clips = batch.unlabeled_weak
        assert clips is not None
        ((features_x, logits_x),) = forward_views(model, batch.labeled_weak)
        with frozen_statistics(model):
            # The direction comes from differences far below the resolution of half precision.
            with torch.autocast(clips.device.type, enabled=False):
                ((features_u, logits_u),) = forward_views(model, clips)
                direction = adversarial_direction(
                    model, clips.detach(), logits_u, xi=self.config.xi, iterations=self.config.iterations
                )
            length = self.config.eps * clips[0].numel() ** 0.5
            ((_, logits_r),) = forward_views(model, clips + length * direction)
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        adversarial = divergence(logits_u, logits_r)
        uncertainty = entropy(logits_u)
        return StepOutput(
            loss=sup_logits
            + ramp_up(batch.progress, self.config.ramp) * self.config.lambda_u * adversarial
            + self.config.lambda_entropy * uncertainty,
            parts={
                "sup_logits": sup_logits.detach(),
                "adversarial": adversarial.detach(),
                "entropy": uncertainty.detach(),
            },
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=logits_u.detach().argmax(dim=1),
        )


def adversarial_direction(model: nn.Module, clips: Tensor, logits_BK: Tensor, *, xi: float, iterations: int) -> Tensor:
    """Return the change of each clip [B, T, 3, H, W], of length 1, that moves its prediction `logits_BK` most.

    The power method (section 3.3), from a random direction and with steps of length `xi`. Only the gradient with
    respect to the clips is computed; those of the parameters, which may hold something, stay as they are.
    """
    direction = unit(own_part(torch.randn_like(joint(clips))))
    for _ in range(iterations):
        moved = (clips + xi * direction).requires_grad_()
        ((_, moved_BK),) = forward_views(model, moved)
        (gradient,) = torch.autograd.grad(divergence(logits_BK, moved_BK), moved)
        direction = unit(gradient)
    return direction


def unit(clips: Tensor) -> Tensor:
    """Return each clip divided by its length over all dimensions but the first; zeros stay zeros."""
    dims, tiny = tuple(range(1, clips.dim())), torch.finfo(clips.dtype).tiny
    # The square of a small gradient is no longer a float32; that of its ratio to the largest value is.
    largest = torch.maximum(clips.amax(dims, keepdim=True), -clips.amin(dims, keepdim=True))
    scaled = clips / largest.clamp_min(tiny)
    return scaled.div_(torch.linalg.vector_norm(scaled, dim=dims, keepdim=True).clamp_min(tiny))


def divergence(target_BK: Tensor, logits_BK: Tensor) -> Tensor:
    """Return KL(target || prediction) of logits, the mean over clips; gradients flow to the prediction alone."""
    targets_BK = target_BK.detach().log_softmax(dim=1)
    return F.kl_div(logits_BK.log_softmax(dim=1), targets_BK, reduction="batchmean", log_target=True)


def entropy(logits_BK: Tensor) -> Tensor:
    """Return the mean entropy of predictions, in nats."""
    return -(logits_BK.softmax(dim=1) * logits_BK.log_softmax(dim=1)).sum(dim=1).mean()
