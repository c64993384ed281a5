"""InfoMatch beyond what holds for every method. Letters: B batch, H W the side of a view, K classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import InfoMatchConfig
from aplt.trainer.methods import Batch
from aplt.trainer.methods.infomatch import InfoMatch, cutmix_loss, disagreement, draw_boxes, own_share

B, K, SIDE = 4, 3, 12
SIZES: dict[str, Any] = {"num_classes": K, "feature_dim": K, "num_unlabeled": B, "normalize": "l2"}


class Watched(nn.Module):
    """Clips whose logits are the mean of their pixels by colour; remembers both."""

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        self.clips = clips
        self.logits_NK = clips.mean(dim=(1, 3, 4)).requires_grad_()
        self.logits_NK.retain_grad()
        return self.logits_NK, self.logits_NK

    def group(self, values: Tensor, number: int) -> Tensor:
        """The rows of labelled, weak, mixed and both strong views, in this order."""
        return values[B * number : B * (number + 1)]


def views() -> Batch:
    """Clips of four pixel patterns that are all constant over time and space."""
    generator = torch.Generator().manual_seed(0)

    def clips(scale: float) -> Tensor:
        return scale * torch.randn(B, 1, 3, 1, 1, generator=generator).expand(B, 2, 3, SIDE, SIDE)

    return Batch(
        progress=0.0,
        labels_B=torch.arange(B) % K,
        labeled_weak=clips(1),
        unlabeled_weak=clips(3),
        unlabeled_strong=clips(1),
        unlabeled_strong_2=clips(1),
        position_B=torch.arange(B),
    )


def test_it_starts_from_nothing_but_the_number_of_classes() -> None:
    """Published scripts set the first thresholds from predictions of the test clips."""
    state = InfoMatch(InfoMatchConfig(), **SIZES).state_dict()
    assert set(state) == {"tau", "mean"}
    for value in state.values():
        assert torch.allclose(value, torch.tensor(1 / K))


def test_it_takes_a_step_in_before_it_uses_the_thresholds() -> None:
    method, model = InfoMatch(InfoMatchConfig(momentum=0.0), **SIZES), Watched()
    output = method.loss(model, views())
    weak_BK = model.group(model.logits_NK, 1).softmax(dim=1)
    confidence_B, classes_B = weak_BK.max(dim=1)
    assert torch.allclose(method.tau, confidence_B.mean())
    mean_K = weak_BK.mean(dim=0)
    passes_B = confidence_B >= confidence_B.mean() * (mean_K / mean_K.max())[classes_B]
    assert 0 < passes_B.sum() < B
    assert output.online_labels_B is not None
    assert torch.equal(output.online_labels_B, classes_B.where(passes_B, torch.tensor(-1)))


def test_mixed_views_are_of_two_clips_with_the_same_box_in_all_frames_and_weighted_by_what_they_show() -> None:
    method, model = InfoMatch(InfoMatchConfig(momentum=0.0), **SIZES), Watched()
    torch.manual_seed(5)
    output = method.loss(model, views())
    weak, mixed = model.group(model.clips, 1), model.group(model.clips, 2)
    assert output.online_labels_B is not None
    total, num_mixed = torch.zeros(()), 0
    for clip, logits_K in zip(range(B), model.group(model.logits_NK, 2), strict=True):
        inside = (mixed[clip] != weak[clip]).any(dim=1)
        assert torch.equal(inside[0], inside[1])
        share = 1 - inside[0].float().mean()
        labels = [(clip, share)]
        if inside.any():
            num_mixed += 1
            pixel_3 = mixed[clip, 0][:, inside[0]][:, 0]
            partner = int((weak[:, 0, :, 0, 0] == pixel_3).all(dim=1).nonzero())
            assert torch.equal(mixed[clip][:, :, inside[0]], weak[partner][:, :, inside[0]])
            labels.append((partner, 1 - share))
        for source, weight in labels:
            label = int(output.online_labels_B[source])
            if label >= 0:
                total = total - weight * logits_K.log_softmax(dim=0)[label]
    assert num_mixed > 1
    assert torch.allclose(output.parts["u_cutmix"], total / B, atol=1e-6)


def test_boxes_differ_between_clips_and_are_a_quarter_of_the_view_before_the_border_cuts_them() -> None:
    torch.manual_seed(0)
    inside = draw_boxes(2000, 24, 32)
    assert inside.shape == (2000, 1, 1, 24, 32)
    share_B = own_share(inside)
    assert share_B.min() >= 0.5
    assert 0.75 < share_B.mean() < 0.9
    assert len(share_B.unique()) > 50
    everywhere = inside.float().mean(dim=0).squeeze()
    assert everywhere.min() > 0.05
    filled_B = inside.any(dim=-1).sum(dim=(1, 2, 3)) * inside.any(dim=-2).sum(dim=(1, 2, 3))
    assert torch.equal(filled_B, inside.sum(dim=(1, 2, 3, 4)))  # rectangles


def test_each_clip_of_a_mixture_counts_if_it_has_a_pseudo_label_itself() -> None:
    logits_BK = torch.randn(2, K, generator=torch.Generator().manual_seed(0))
    order_B, share_B = torch.tensor([1, 0]), torch.tensor([0.75, 0.6])
    loss = cutmix_loss(logits_BK, torch.tensor([0, -1]), order_B, own_share_B=share_B)
    first, second = (F.cross_entropy(row, torch.tensor(0)) for row in logits_BK)
    assert torch.allclose(loss, (0.75 * first + 0.4 * second) / 2)
    assert cutmix_loss(logits_BK, torch.tensor([-1, -1]), order_B, own_share_B=share_B) == 0


def test_the_strong_views_learn_from_each_other_in_their_logits() -> None:
    first_BK, second_BK = torch.randn(2, 5, K, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = disagreement(first_BK, second_BK)
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(loss, [first_BK, second_BK]))
    # of logits rather than probabilities: neither their scale nor their level counts
    assert torch.allclose(disagreement(3 * first_BK + 2, second_BK), loss)
    pairs = zip(first_BK, second_BK, strict=True)
    correlation_B = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])
    assert torch.allclose(loss, (2 * (1 - correlation_B) * (K - 1) / K).mean())


@pytest.mark.parametrize("other", [[1.0, 1.0, 1.0], [0.0, 1.0, 5.0]])
def test_equal_logits_have_a_finite_gradient(other: list[float]) -> None:
    first_BK = torch.full((1, K), 2.0, requires_grad=True)
    loss = disagreement(first_BK, torch.tensor([other]))
    assert torch.isfinite(loss)
    assert torch.equal(torch.autograd.grad(loss, first_BK)[0], torch.zeros(1, K))


def test_the_loss_is_the_weighted_sum_of_its_parts_and_weak_predictions_get_no_gradient() -> None:
    method, model = InfoMatch(InfoMatchConfig(), **SIZES), Watched()
    output = method.loss(model, views())
    parts = output.parts
    unlabeled = 0.5 * parts["u_cutmix"] + 0.5 * parts["u_strong"] + 0.001 * parts["information"]
    assert torch.allclose(output.loss, parts["sup_logits"] + 2 * unlabeled)
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert model.logits_NK.grad is not None
    trained = [bool(model.group(model.logits_NK.grad, number).abs().sum() > 0) for number in range(5)]
    assert trained == [True, False, True, True, True]
