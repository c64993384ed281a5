"""SVFormer: a teacher labels weak views for strong ones, and for mixtures of strong views with slowed-down ones.

Letters: B batch, T frames, H W the side of a view, K classes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import SVFormerConfig
from aplt.trainer.losses import UNUSED, cross_entropy, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views
from aplt.trainer.methods.mixmatch import mix
from aplt.trainer.ranks import joint, own_part

CELLS = 14
"""Of a mixing mask, along each side: the patches of a ViT-B/16 at 224 pixels."""


class SVFormer(Method[SVFormerConfig]):
    """SVFormer (Xing et al., CVPR 2023) for any network; the student predicts, with the parametric head.

    State: `teacher`, a moving average of the student with its batch norm's statistics, always in evaluation mode.
    """

    def __init__(self, config: SVFormerConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.teacher: nn.Module

    def begin(self, model: nn.Module) -> None:
        """The teacher starts as a copy of the student."""
        self.teacher = copy.deepcopy(model).requires_grad_(False).eval()

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + lambda_u L_un + lambda_mix L_mix, the student's views in one forward."""
        strong = batch.unlabeled_strong
        assert strong is not None
        clips = joint(strong)
        num_clips, num_frames, _, height, width = clips.shape
        with torch.no_grad():
            ((_, logits_t),) = forward_views(self.teacher, batch.unlabeled_weak)
        order_B = torch.randperm(num_clips).to(strong.device)
        frames_BT = torch.stack([draw_warp(num_frames) for _ in range(num_clips)]).to(strong.device)
        tube, share = draw_tube(height, width, alpha=self.config.alpha)
        mixed = own_part(torch.where(tube.to(clips.device), clips, warped(clips, frames_BT)[order_B]))
        (features_x, logits_x), (features_s, logits_s), (_, logits_m) = forward_views(
            model, batch.labeled_weak, strong, mixed
        )

        online_B = pseudo_labels(logits_t, tau=self.config.tau)
        targets_BK, weight_B = mixed_targets(logits_t.softmax(dim=1), online_B, order_B, share=share)
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        u_logits = pseudo_label_loss(logits_s, online_B)
        u_mix = mix_loss(logits_m, targets_BK, weight_B, on_logits=self.config.mix_on_logits)
        return StepOutput(
            loss=sup_logits + self.config.lambda_u * u_logits + self.config.lambda_mix * u_mix,
            parts={"sup_logits": sup_logits.detach(), "u_logits": u_logits.detach(), "u_mix": u_mix.detach()},
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_s.detach(),
            online_labels_B=online_B,
        )

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """The teacher follows the student, running statistics included."""
        for averaged, value in zip(self.teacher.state_dict().values(), model.state_dict().values(), strict=True):
            if averaged.is_floating_point():
                averaged.lerp_(value, 1 - self.config.decay)
            else:
                averaged.copy_(value)

    def tested(self, model: nn.Module) -> nn.Module:
        """The student, or with `tested: teacher` the teacher."""
        return self.teacher if self.config.tested == "teacher" else model


def draw_tube(height: int, width: int, *, alpha: float) -> tuple[Tensor, float]:
    """Return a random mask [height, width] of CELLS x CELLS cells, the same for all frames and clips, and its share.

    Tube TokenMix (section 3.2): the share is drawn from Beta(alpha, alpha) and rounded down to whole cells. The mask is
    a network's own tokens where its patches are such cells, since patches are embedded one by one.
    """
    num_cells = int(float(torch.distributions.Beta(alpha, alpha).sample()) * CELLS**2)
    cells = torch.zeros(CELLS**2, dtype=torch.bool)
    cells[torch.randperm(CELLS**2)[:num_cells]] = True
    rows_H, columns_W = (torch.arange(side) * CELLS // side for side in (height, width))
    return cells.view(CELLS, CELLS)[rows_H[:, None], columns_W], num_cells / CELLS**2


def draw_warp(num_frames: int) -> Tensor:
    """Return which frame a slowed-down clip shows at each moment [T]: some of its frames, longer, in their order.

    Temporal warping (section 3.3): a quarter, a half or all of the frames are kept; each is shown until a random moment
    before or at the next one's own.
    """
    num_kept = max(1, num_frames // (4, 2, 1)[int(torch.randint(3, ()))])
    kept = torch.randperm(num_frames)[:num_kept].sort().values
    switches = kept[:-1] + 1 + (torch.rand(num_kept - 1) * kept.diff()).long()
    return kept[torch.searchsorted(switches, torch.arange(num_frames), right=True)]


def warped(clips: Tensor, frames_BT: Tensor) -> Tensor:
    """Return other clips [B, T, 3, H, W] that show the frames `frames_BT` of these."""
    return clips[torch.arange(len(clips), device=clips.device)[:, None], frames_BT]


def mixed_targets(teacher_BK: Tensor, pseudo_B: Tensor, order_B: Tensor, *, share: float) -> tuple[Tensor, Tensor]:
    """Return targets [B, K] and weights [B] of clips of which `share` is seen, and else the one in `order_B`.

    A clip's own target is its pseudo-label if it has one, else the teacher's probabilities; in the weight it counts
    with a pseudo-label alone.
    """
    passed_B = pseudo_B != UNUSED
    hard_BK = F.one_hot(pseudo_B.clamp_min(0), teacher_BK.shape[1]).to(teacher_BK.dtype)
    share_B = teacher_BK.new_full((len(teacher_BK),), share)
    targets_BK = mix(torch.where(passed_B[:, None], hard_BK, teacher_BK), order_B, share_B)
    return targets_BK, mix(passed_B.to(teacher_BK.dtype), order_B, share_B)


def mix_loss(logits_BK: Tensor, targets_BK: Tensor, weight_B: Tensor, *, on_logits: bool) -> Tensor:
    """Return the squared difference of the probabilities, its mean over the classes, weighted by clip, over all clips.

    With `on_logits` that of the logits, which the published code takes.
    """
    predicted_BK = logits_BK if on_logits else logits_BK.softmax(dim=1)
    return (weight_B * F.mse_loss(predicted_BK, targets_BK, reduction="none").mean(dim=1)).mean()
