"""VAT beyond what holds for every method. Letters: B batch, K classes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aplt.trainer.config import VATConfig
from aplt.trainer.methods import Batch
from aplt.trainer.methods.vat import VAT, adversarial_direction, divergence, unit

SIZES: dict[str, Any] = {"num_classes": 3, "feature_dim": 6, "num_unlabeled": 4, "normalize": "l2"}


class Network3D(nn.Module):
    """Clips [B, T, 3, H, W] through one convolution over time and space."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6) if norm else nn.Identity(), nn.Softplus()
        )
        self.head = nn.Linear(6, 3)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        features_BD = self.backbone(clips.transpose(1, 2)).mean(dim=(2, 3, 4))
        return features_BD, self.head(features_BD)


class Watching(Network3D):
    """Remembers the clips of each forward."""

    def __init__(self, *, norm: bool) -> None:
        torch.manual_seed(0)
        super().__init__(norm=norm)
        self.seen: list[Tensor] = []

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(clips.detach())
        return super().forward(clips)


def network(*, norm: bool) -> Network3D:
    torch.manual_seed(0)
    return Network3D(norm=norm)


def batch(side: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        progress=0.5,
        labels_B=torch.tensor([0, 1]),
        labeled_weak=torch.randn(2, 4, 3, side, side, generator=generator),
        unlabeled_weak=3 + torch.randn(2, 4, 3, side, side, generator=generator),
        position_B=torch.tensor([0, 1]),
    )


def test_a_perturbation_has_its_length_over_the_whole_clip() -> None:
    """A public implementation does not normalise clips of five dimensions; another divides by a wrong shape."""
    clips = torch.randn(3, 8, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 1e-30, 1e30):
        scaled = unit(scale * clips)
        assert torch.allclose(scaled.flatten(1).norm(dim=1), torch.ones(3))
        assert torch.allclose(scaled, unit(clips), atol=1e-6)
    assert torch.equal(unit(torch.zeros(2, 1, 3, 2, 2)), torch.zeros(2, 1, 3, 2, 2))


def test_the_size_of_the_perturbation_is_that_of_the_setting_whatever_the_size_of_a_clip() -> None:
    model = Watching(norm=False)
    for side in (6, 12):
        views = batch(side)
        VAT(VATConfig(eps=0.25), **SIZES).loss(model, views)
        change = model.seen[-1] - views.unlabeled_weak
        assert change.square().mean(dim=(1, 2, 3, 4)).sqrt().tolist() == pytest.approx([0.25, 0.25], rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_direction_is_that_of_double_precision(precision: str) -> None:
    """The published step of 1e-6 is lost in a clip's pixels, and half precision loses far longer ones."""
    model, clips = Watching(norm=False), batch(32).unlabeled_weak
    assert clips is not None
    exact = copy.deepcopy(model).double()
    torch.manual_seed(2)
    step = 1e-3 * unit(torch.randn_like(clips)).double().requires_grad_()
    moved = divergence(exact(clips.double())[1], exact(clips.double() + step)[1])
    wanted = unit(torch.autograd.grad(moved, step)[0]).float()

    def agreement(xi: float) -> Tensor:
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            VAT(VATConfig(xi=xi), **SIZES).loss(model, batch(32))
        return (unit(model.seen[-1] - clips) * wanted).flatten(1).sum(dim=1)

    assert (agreement(VATConfig().xi) > 0.99).all()
    assert (agreement(1e-6) < 0.9).any()


def test_it_moves_the_prediction_more_than_a_random_perturbation_of_the_same_size() -> None:
    model, clips = network(norm=False), batch().unlabeled_weak
    assert clips is not None
    with torch.no_grad():
        logits_BK = model(clips)[1]
    torch.manual_seed(2)
    found = adversarial_direction(model, clips, logits_BK, xi=1.0, iterations=1)
    random = unit(torch.randn_like(clips))
    moved, moved_at_random = (divergence(logits_BK, model(clips + 2 * one)[1]) for one in (found, random))
    assert moved > 5 * moved_at_random


def test_gradients_that_the_parameters_hold_stay() -> None:
    """Public implementations back-propagate into the parameters while they look for the direction, and zero them."""
    model = network(norm=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    output = VAT(VATConfig(), **SIZES).loss(model, batch())
    assert all(torch.equal(value.grad, torch.ones_like(value)) for value in model.parameters())  # type: ignore[arg-type]
    alone = torch.autograd.grad(output.loss, list(model.parameters()), retain_graph=True)
    output.loss.backward()  # type: ignore[no-untyped-call]
    for parameter, gradient in zip(model.parameters(), alone, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, 1 + gradient, atol=1e-6)


def test_running_statistics_of_a_network_for_video_follow_the_labelled_clips_alone() -> None:
    model, views = network(norm=True), batch()
    labeled = copy.deepcopy(model)
    labeled(views.labeled_weak)
    VAT(VATConfig(), **SIZES).loss(model, views)
    for name, value in labeled.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_a_difference_of_predictions_is_due_to_the_perturbation() -> None:
    """With batch norm, passes over other clips or in another mode would differ however small it is."""
    method = VAT(VATConfig(eps=1e-5), **SIZES)
    assert method.loss(network(norm=True), batch()).parts["adversarial"] < 1e-8
    assert VAT(VATConfig(), **SIZES).loss(network(norm=True), batch()).parts["adversarial"] > 1e-6


def test_the_divergence_is_one_way_and_the_entropy_is_learnt() -> None:
    target_BK, logits_BK = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradients = torch.autograd.grad(divergence(target_BK, logits_BK), [target_BK, logits_BK], allow_unused=True)
    assert gradients[0] is None
    assert gradients[1].abs().sum() > 0
    model, views = network(norm=False), batch()
    torch.manual_seed(2)
    only_entropy = VAT(VATConfig(lambda_u=0.0), **SIZES).loss(model, views)
    assert torch.allclose(only_entropy.loss, only_entropy.parts["sup_logits"] + 0.06 * only_entropy.parts["entropy"])
    before = float(only_entropy.parts["entropy"])
    gradients = torch.autograd.grad(only_entropy.loss - only_entropy.parts["sup_logits"], list(model.parameters()))
    assert before > 0
    assert gradients[0].abs().sum() > 0


def test_the_ramp_raises_the_adversarial_part_alone() -> None:
    model = network(norm=False)
    for progress, weight in ((0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)):
        views = Batch(**{**vars(batch()), "progress": progress})
        output = VAT(VATConfig(), **SIZES).loss(model, views)
        parts = output.parts
        assert torch.allclose(
            output.loss, parts["sup_logits"] + weight * parts["adversarial"] + 0.06 * parts["entropy"], atol=1e-8
        )
