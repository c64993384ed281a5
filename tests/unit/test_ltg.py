"""LTG beyond what holds for every method. Letters: B batch, T frames, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aplt.common.models import VideoClassifier, build_model
from aplt.common.views import Augmentation
from aplt.trainer.config import LTGConfig
from aplt.trainer.methods import Batch
from aplt.trainer.methods.ltg import LTG, alignment_loss, both_streams, contrastive_loss

B, T, K = 3, 2, 4
SIZES: dict[str, Any] = {"num_classes": K, "feature_dim": 128, "num_unlabeled": B, "normalize": "l2"}
VIEWS = ("labeled_weak", "unlabeled_weak", "unlabeled_strong")


def views(progress: float = 0.5) -> Batch:
    generator = torch.Generator().manual_seed(0)
    clips = {name: torch.randn(B, T, 3, 24, 24, generator=generator) for view in VIEWS for name in (view, f"{view}_tg")}
    return Batch(progress=progress, labels_B=torch.tensor([0, 1, 2]), position_B=torch.arange(B), **clips)


def begun(**settings: float) -> tuple[VideoClassifier, LTG]:
    torch.manual_seed(0)
    model = build_model("tiny_tsm", num_classes=K)
    method = LTG(LTGConfig.model_validate({"name": "ltg", **settings}), **SIZES)
    method.begin(model)
    with torch.no_grad():
        for parameter in method.temporal.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model, method


def gradients(network: torch.nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def test_the_loss_is_worked_out_by_hand() -> None:
    model, method = begun(tau=0.35)
    batch = views()
    output = method.loss(model, batch)
    assert output.online_labels_B is not None

    def joint(suffix: str) -> Tensor:
        return torch.cat([getattr(batch, view + suffix) for view in VIEWS])

    features_rgb, logits_rgb, maps_rgb = model.stages(joint(""))
    features_tg, logits_tg, maps_tg = method.temporal.stages(joint("_tg"))
    (x_rgb, w_rgb, s_rgb), (x_tg, w_tg, s_tg) = logits_rgb.split(B), logits_tg.split(B)
    confidence_B, guess_B = ((w_rgb + w_tg) / 2).softmax(dim=1).max(dim=1)
    kept_B = confidence_B >= 0.35
    assert torch.equal(output.online_labels_B, guess_B.where(kept_B, -1))
    parts = output.parts
    labels_B = batch.labels_B
    assert torch.allclose(parts["sup_logits"], (F.cross_entropy(x_rgb, labels_B) + F.cross_entropy(x_tg, labels_B)) / 2)
    each_B = sum(F.cross_entropy(logits, guess_B, reduction="none") for logits in (s_rgb, s_tg))
    assert torch.allclose(parts["u_logits"], (each_B * kept_B).sum() / (2 * B))  # type: ignore[operator]
    used = slice(0, 2 * B * T)  # the frames of labelled and weak views
    cosines = [
        F.cosine_similarity(rgb[used], tg[used], dim=1).mean() for rgb, tg in zip(maps_rgb, maps_tg, strict=True)
    ]
    assert torch.allclose(parts["align"], 4 - torch.stack(cosines).sum(), atol=1e-5)
    projected = method.project_rgb(features_rgb[: 2 * B]), method.project_tg(features_tg[: 2 * B])
    assert torch.allclose(parts["contrast"], contrastive_loss(*projected, temperature=0.5), atol=1e-5)
    assert torch.allclose(output.loss, sum(parts.values(), torch.zeros(())))


def test_pseudo_labels_are_used_after_the_warm_up_alone() -> None:
    model, method = begun(tau=0.0)
    early, late = (method.loss(model, views(progress)).parts for progress in (0.16, 0.17))
    assert early.keys() == {"sup_logits", "align", "contrast"}
    assert late["u_logits"] > 0


def test_the_maps_of_the_rgb_network_follow_those_of_the_other_one_which_learns_nothing_of_it() -> None:
    model, method = begun(lambda_u=0.0, lambda_contrast=0.0)
    found = []
    for weight in (0.0, 1.0):
        method.config = method.config.model_copy(update={"lambda_align": weight})
        model.zero_grad()
        method.zero_grad()
        method.loss(model, views()).loss.backward()  # type: ignore[no-untyped-call]
        found.append([[value.clone() for value in gradients(network)] for network in (model, method.temporal)])
    (rgb, tg), (rgb_aligned, tg_aligned) = found
    assert not all(torch.allclose(*pair) for pair in zip(rgb, rgb_aligned, strict=True))
    assert all(torch.equal(*pair) for pair in zip(tg, tg_aligned, strict=True))


def test_both_networks_and_projectors_are_trained_and_the_rgb_one_is_tested() -> None:
    model, method = begun(tau=0.0)
    method.loss(model, views()).loss.backward()  # type: ignore[no-untyped-call]
    for network in (model, method.temporal, method.project_rgb, method.project_tg):
        assert len(gradients(network)) == len(list(network.parameters()))
    assert method.tested(model) is model
    own, theirs = list(model.parameters()), list(method.temporal.parameters())
    assert all(a is not b and a.shape == b.shape for a, b in zip(own, theirs, strict=True))


def test_logits_are_averaged_and_not_probabilities() -> None:
    model, method = begun(tau=0.0)
    batch = views()
    with torch.no_grad():
        # One network is sure of class 0; the other one sees it nowhere, and prefers class 3 a little.
        for head, bias in ((model.head, [10.0, 0, 0, 0]), (method.temporal.head, [-20.0, 0, 0, 1.0])):
            head.weight.zero_()  # type: ignore[union-attr, operator]
            head.bias.copy_(torch.tensor(bias))  # type: ignore[union-attr, operator]
    online_B = method.loss(model, batch).online_labels_B
    assert online_B is not None
    assert (online_B == 3).all()  # probabilities alone would say 0


def test_maps_of_clips_and_of_frames_give_the_same_distance() -> None:
    rgb, tg = torch.randn(2, B, 5, T, 3, 3, generator=torch.Generator().manual_seed(0))
    folded = [values.transpose(1, 2).flatten(0, 1) for values in (rgb, tg)]
    whole_B = alignment_loss([rgb], [tg], num_clips=B)
    assert whole_B.shape == (B,)
    assert torch.allclose(whole_B, alignment_loss(folded[:1], folded[1:], num_clips=B))
    assert torch.allclose(alignment_loss([rgb, rgb], [3 * rgb, -rgb], num_clips=B), torch.full((B,), 2.0), atol=1e-6)


def test_strong_views_are_not_aligned() -> None:
    torch.manual_seed(0)
    rgb, temporal = (build_model("tiny_tsm", num_classes=3) for _ in range(2))
    clips, gradients = torch.randn(2, 5, 2, 3, 16, 16)
    *outputs, distances = both_streams(rgb, temporal, gradients, 3, clips)
    *expected, all_distances = both_streams(rgb, temporal, gradients, 5, clips)
    assert all(torch.equal(found, wanted) for found, wanted in zip(outputs, expected, strict=True))
    assert torch.allclose(distances[:3], all_distances[:3])
    assert torch.equal(distances[3:], torch.zeros(2))


def test_temporal_gradients_have_the_frames_crop_and_flip_of_their_view() -> None:
    augmentation = Augmentation(
        seed=0,
        num_segments=2,
        frames_per_segment=2,
        crop_size=8,
        crop_scale=(0.5, 1.0),
        flip=True,
        num_ops=2,
        cutout=0.5,
    )
    random = np.random.default_rng(0)
    still = torch.from_numpy(np.repeat(random.integers(0, 256, (6, 1, 12, 12, 3), dtype=np.uint8), 4, axis=1))
    rows_B, options = np.arange(6, dtype=np.int32), {"round_B": np.zeros(6, dtype=np.int64), "view": "any"}
    nothing = augmentation.weak(still, rows_B, gradients=True, **options)  # type: ignore[arg-type]
    assert (nothing.amax(dim=(1, 3, 4)) - nothing.amin(dim=(1, 3, 4))).max() < 1e-5  # all 127
    # The second frame of each segment is black: a gradient is half of the first frame, or minus half of the next one.
    blinking = still.clone()
    blinking[:, 1::2] = 0
    weak = augmentation.weak(blinking, rows_B, **options)  # type: ignore[arg-type]
    found = augmentation.weak(blinking, rows_B, gradients=True, **options)  # type: ignore[arg-type]
    frame = augmentation.weak(still, rows_B, **options)  # type: ignore[arg-type]
    black = (weak == weak.amin(dim=(3, 4), keepdim=True)).all(dim=(2, 3, 4))  # [B, T]
    assert black[:, 0].any()
    assert not black[:, 0].all()
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    grey = 255 * (frame[:, 0] * deviation + mean)
    shown = 255 * (found[:, 0] * deviation + mean)
    assert torch.allclose(shown[~black[:, 0]], 127.5 + grey[~black[:, 0]] / 2, atol=0.6)
    assert torch.allclose(shown[black[:, 0]], 127.5 - grey[black[:, 0]] / 2, atol=0.6)
    strong = augmentation.strong(blinking, rows_B, gradients=True, **options)  # type: ignore[arg-type]
    assert strong.shape == found.shape
    assert not torch.equal(strong, found)
