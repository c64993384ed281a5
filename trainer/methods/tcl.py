"""TCL: a clip at two speeds gets the same prediction, and groups of clips that are predicted alike come to agree.

Letters: B batch, T frames, G the slow clip's frames, K classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import TCLConfig
from aplt.trainer.losses import cross_entropy, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views
from aplt.trainer.ranks import joint, own_part


class TCL(Method[TCLConfig]):
    """Temporal contrastive learning (Singh et al., CVPR 2021); predicts with the parametric head.

    Three stages: labels alone; labels and contrast; labels and pseudo-labels. The fast pathway is a weak view with all
    frames, the slow one another weak view with half of them, and one network sees both.
    """

    uses_unlabeled_strong: ClassVar[bool] = False
    uses_unlabeled_weak_2: ClassVar[bool] = True

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_sup, then L_sup + lambda_instance L_ic + lambda_group L_gc, then L_sup + lambda_u L_pl."""
        if batch.progress < self.config.warmup:
            ((features_x, logits_x),) = forward_views(model, batch.labeled_weak)
            loss = cross_entropy(logits_x, batch.labels_B)
            return StepOutput(loss=loss, parts={"sup_logits": loss.detach()}, labeled_features_BD=features_x.detach())
        (features_x, logits_x), (features_f, logits_f) = forward_views(model, batch.labeled_weak, batch.unlabeled_weak)
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        parts = {"sup_logits": sup_logits.detach()}
        if batch.progress < self.config.finetune:
            assert batch.unlabeled_weak_2 is not None
            ((_, logits_s),) = forward_views(model, own_part(slow(joint(batch.unlabeled_weak_2))))
            online_B = logits_f.detach().argmax(dim=1)
            fast_BK, slow_BK = logits_f.detach().softmax(dim=1), logits_s.softmax(dim=1)
            with torch.autocast(slow_BK.device.type, enabled=False):
                instance = instance_loss(fast_BK, slow_BK, temperature=self.config.temperature)
                group = group_loss(fast_BK, slow_BK, temperature=self.config.temperature)
            loss = sup_logits + self.config.lambda_instance * instance + self.config.lambda_group * group
            parts |= {"instance": instance.detach(), "group": group.detach()}
        else:
            online_B = pseudo_labels(logits_f, tau=self.config.tau)
            u_logits = pseudo_label_loss(logits_f, online_B)
            loss = sup_logits + self.config.lambda_u * u_logits
            parts |= {"u_logits": u_logits.detach()}
        return StepOutput(
            loss=loss,
            parts=parts,
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_f.detach(),
            online_labels_B=online_B,
        )


def slow(clips: Tensor) -> Tensor:
    """Return one random frame of each two neighbouring ones [B, G, 3, H, W] of clips [B, T, 3, H, W]; G is T / 2.

    Since each frame of a view is a random one of its segment, this is a random frame of each of G longer segments. The
    last frame of an odd number stays. One draw per clip and frame, from the CPU's generator.
    """
    num_clips, num_frames = clips.shape[:2]
    first_G = torch.arange(0, num_frames, 2)
    frames_BG = (first_G + torch.randint(2, (num_clips, len(first_G)))).clamp_max(num_frames - 1).to(clips.device)
    return clips[torch.arange(num_clips, device=clips.device)[:, None], frames_BG]


def instance_loss(fast_BK: Tensor, slow_BK: Tensor, *, temperature: float) -> Tensor:
    """Return L_ic: the two probabilities of a clip are to be closer than those of other clips (TCL, section 3.2)."""
    every_B = torch.ones(len(fast_BK), dtype=torch.bool, device=fast_BK.device)
    return contrastive_loss(fast_BK, slow_BK, keep_N=every_B, temperature=temperature)


def group_loss(fast_BK: Tensor, slow_BK: Tensor, *, temperature: float) -> Tensor:
    """Return L_gc: the same for the mean probabilities of the clips that are predicted alike (TCL, section 3.3).

    Each pathway groups by its own predictions. Only classes that both predict count; without any the loss is 0.
    """
    (fast_KK, in_fast_K), (slow_KK, in_slow_K) = (_group_means(values_BK) for values_BK in (fast_BK, slow_BK))
    return contrastive_loss(fast_KK, slow_KK, keep_N=in_fast_K & in_slow_K, temperature=temperature)


def _group_means(probabilities_BK: Tensor) -> tuple[Tensor, Tensor]:
    """The mean row of those that are largest at each class [K, K], and whether there are any [K]."""
    member_BK = F.one_hot(probabilities_BK.argmax(dim=1), probabilities_BK.shape[1]).to(probabilities_BK.dtype)
    count_K = member_BK.sum(dim=0)
    return member_BK.T @ probabilities_BK / count_K.clamp_min(1)[:, None], count_K > 0


def contrastive_loss(first_NK: Tensor, second_NK: Tensor, *, keep_N: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent over the 2 N vectors (SimCLR, Chen et al. 2020), with cosine similarities.

    A vector's partner stands in the same row of the other set, and all others but itself are negatives. Rows outside
    `keep_N` take no part; if there are none inside, the loss is 0.
    """
    num = len(first_NK)
    vectors = F.normalize(torch.cat([first_NK, second_NK]))
    absent = ~keep_N.repeat(2)
    left_out = torch.eye(2 * num, dtype=torch.bool, device=vectors.device) | absent
    # Not infinity: where all columns are left out, that would be NaN, and its gradient too.
    similarities = (vectors @ vectors.T / temperature).masked_fill(left_out, torch.finfo(vectors.dtype).min)
    partners = torch.arange(2 * num, device=vectors.device).roll(num)
    losses = F.cross_entropy(similarities, partners, reduction="none")
    return losses.masked_fill(absent, 0.0).sum() / (~absent).sum().clamp_min(1)
