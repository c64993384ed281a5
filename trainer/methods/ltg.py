"""LTG: a second network sees what changes between frames; it labels with the first one, and the first learns its maps.

Letters: N clips of a view, T frames, C channels, D features, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.common.models import VideoClassifier
from aplt.trainer.config import LTGConfig
from aplt.trainer.losses import cross_entropy, pseudo_label_loss, pseudo_labels
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views, joined

EPS = 1e-8


class LTG(Method[LTGConfig]):
    """Learning from temporal gradients (Xiao et al., CVPR 2022); the RGB network predicts, with the parametric head.

    State: `temporal`, the network of the temporal gradients (TG), which starts as a copy of the RGB one and has weights
    of its own; `project_rgb` and `project_tg`, what compares their features. All of them are trained.
    """

    uses_temporal_gradients: ClassVar[bool] = True

    def __init__(self, config: LTGConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.temporal: VideoClassifier
        self.project_rgb = projector(self.feature_dim)
        self.project_tg = projector(self.feature_dim)

    def begin(self, model: nn.Module) -> None:
        """The TG network starts as a copy."""
        assert isinstance(model, VideoClassifier)
        self.temporal = copy.deepcopy(model)

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + lambda_u L_u + lambda_align sum_k L_align_k + lambda_contrast L_con; L_u after the warm-up."""
        assert isinstance(model, VideoClassifier)
        warm_up = batch.progress < self.config.warmup
        assert batch.unlabeled_weak is not None
        num_aligned = len(batch.labeled_weak) + len(batch.unlabeled_weak)
        gradients = joined(
            batch.labeled_weak_tg, batch.unlabeled_weak_tg, None if warm_up else batch.unlabeled_strong_tg
        )
        labeled, weak, *strong = forward_views(
            partial(both_streams, model, self.temporal, gradients, num_aligned),
            batch.labeled_weak,
            batch.unlabeled_weak,
            None if warm_up else batch.unlabeled_strong,
        )
        (features_x, logits_x, tg_features_x, tg_logits_x, distance_x) = labeled
        (features_u, logits_u, tg_features_u, tg_logits_u, distance_u) = weak

        online_B = pseudo_labels((logits_u + tg_logits_u) / 2, tau=self.config.tau)
        sup_logits = (cross_entropy(logits_x, batch.labels_B) + cross_entropy(tg_logits_x, batch.labels_B)) / 2
        align = torch.cat([distance_x, distance_u]).mean()
        contrast = contrastive_loss(
            self.project_rgb(torch.cat([features_x, features_u])).float(),
            self.project_tg(torch.cat([tg_features_x, tg_features_u])).float(),
            temperature=self.config.temperature,
        )
        loss = sup_logits + self.config.lambda_align * align + self.config.lambda_contrast * contrast
        parts = {"sup_logits": sup_logits.detach(), "align": align.detach(), "contrast": contrast.detach()}
        if not warm_up:
            ((_, logits_su, _, tg_logits_su, _),) = strong
            u_logits = (pseudo_label_loss(logits_su, online_B) + pseudo_label_loss(tg_logits_su, online_B)) / 2
            loss = loss + self.config.lambda_u * u_logits
            parts |= {"u_logits": u_logits.detach()}
        return StepOutput(
            loss=loss,
            parts=parts,
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=online_B,
        )


def projector(feature_dim: int) -> nn.Sequential:
    """Return three layers [N, D] to [N, D] with batch norm, the last one without parameters (section 3.3)."""
    return nn.Sequential(
        *(nn.Linear(feature_dim, feature_dim), nn.BatchNorm1d(feature_dim), nn.ReLU(inplace=True)),
        *(nn.Linear(feature_dim, feature_dim), nn.BatchNorm1d(feature_dim), nn.ReLU(inplace=True)),
        *(nn.Linear(feature_dim, feature_dim), nn.BatchNorm1d(feature_dim, affine=False)),
    )


def both_streams(
    rgb: VideoClassifier, temporal: VideoClassifier, gradients: Tensor, num_aligned: int, clips: Tensor
) -> tuple[Tensor, ...]:
    """Return features and logits of both networks for clips [N, T, 3, H, W] and their temporal gradients.

    Then, [N], how far the networks' maps disagree for the first `num_aligned` clips; 0 for others.
    """
    features_ND, logits_NK, maps = rgb.stages(clips)
    tg_features_ND, tg_logits_NK, tg_maps = temporal.stages(gradients)
    aligned, tg_aligned = ([each[: len(each) // len(clips) * num_aligned] for each in of] for of in (maps, tg_maps))
    distances = alignment_loss(aligned, tg_aligned, num_clips=num_aligned)
    distances_N = F.pad(distances, (0, len(clips) - num_aligned))
    return features_ND, logits_NK, tg_features_ND, tg_logits_NK, distances_N


def alignment_loss(maps: Sequence[Tensor], targets: Sequence[Tensor], *, num_clips: int) -> Tensor:
    """Return 1 minus the mean cosine over channels of two maps [N or N*T, C, ...], summed over the stages; [N].

    Gradients flow to the first alone: TG teaches RGB (section 3.2).
    """
    distances = []
    for values, target in zip(maps, targets, strict=True):
        cosines = cosine(values.float(), target.detach().float())
        distances.append(1 - cosines.reshape(num_clips, -1).mean(dim=1))
    return torch.stack(distances).sum(dim=0)


def cosine(values: Tensor, target: Tensor) -> Tensor:
    """Return the cosines of [N, C, ...] over the channels, 0 where one is zero; [N, ...].

    `F.cosine_similarity` first makes two copies of unit length, which for maps is most of its time.
    """
    lengths = [(x * x).sum(dim=1).clamp_min(EPS**2).sqrt() for x in (values, target)]
    return (values * target).sum(dim=1) / (lengths[0] * lengths[1])


def contrastive_loss(rgb_ND: Tensor, tg_ND: Tensor, *, temperature: float) -> Tensor:
    """Return InfoNCE from each kind of features to the other, averaged (section 3.3).

    A clip's partner is the same clip in the other kind; the other clips of the batch in that kind are negatives. Always
    in full precision.
    """
    with torch.autocast(rgb_ND.device.type, enabled=False):
        similarities_NN = F.normalize(rgb_ND) @ F.normalize(tg_ND).T / temperature
    own_N = torch.arange(len(rgb_ND), device=rgb_ND.device)
    return (F.cross_entropy(similarities_NN, own_N) + F.cross_entropy(similarities_NN.T, own_N)) / 2
