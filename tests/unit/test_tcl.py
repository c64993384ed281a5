"""TCL beyond what holds for every method. Letters: B batch, K classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import TCLConfig
from aplt.trainer.methods import Batch
from aplt.trainer.methods.tcl import TCL, contrastive_loss, group_loss, instance_loss, slow

SIZES: dict[str, Any] = {"num_classes": 3, "feature_dim": 3, "num_unlabeled": 4, "normalize": "l2"}
FAST = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
SLOW = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.4, 0.3]])


class Watching(nn.Module):
    """Clips whose logits are the mean of their pixels, times a weight; remembers the shapes that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(tuple(clips.shape[:2]))
        logits_BK = clips.mean(dim=(1, 3, 4)) * self.weight
        return logits_BK, logits_BK


def views(progress: float) -> Batch:
    generator = torch.Generator().manual_seed(0)
    clips = {
        name: 3 * torch.randn(4, 8, 3, 2, 2, generator=generator).mean(dim=1, keepdim=True).expand(-1, 8, -1, -1, -1)
        for name in ("labeled_weak", "unlabeled_weak", "unlabeled_weak_2")
    }
    return Batch(progress=progress, labels_B=torch.tensor([0, 1, 2, 0]), position_B=torch.arange(4), **clips)


def test_it_has_three_stages() -> None:
    model, method = Watching(), TCL(TCLConfig(tau=0.5), **SIZES)
    early, middle, late = (method.loss(model, views(progress)) for progress in (0.1, 0.5, 0.9))
    # Labels alone; with a fast clip, and a slow one of half its frames; with the fast clip alone.
    assert model.seen == [(4, 8), (8, 8), (4, 4), (8, 8)]
    assert early.parts.keys() == {"sup_logits"}
    assert torch.allclose(
        middle.loss, middle.parts["sup_logits"] + 9 * middle.parts["instance"] + middle.parts["group"]
    )
    assert torch.allclose(late.loss, late.parts["sup_logits"] + late.parts["u_logits"])
    logits_f = views(0.9).unlabeled_weak.mean(dim=(1, 3, 4))  # type: ignore[union-attr]
    confidence_B, guess_B = logits_f.softmax(dim=1).max(dim=1)
    losses_B = F.cross_entropy(logits_f, guess_B, reduction="none")
    assert 0 < (confidence_B >= 0.5).sum() < 4
    assert torch.allclose(late.parts["u_logits"], losses_B[confidence_B >= 0.5].sum() / 4)


def test_the_fast_pathway_is_a_constant_for_the_slow_one() -> None:
    fast_BK, slow_BK = FAST.clone().requires_grad_(), SLOW.clone().requires_grad_()
    model, method = Watching(), TCL(TCLConfig(), **SIZES)
    batch = views(0.5)
    for name in ("unlabeled_weak", "unlabeled_weak_2"):
        object.__setattr__(batch, name, getattr(batch, name).clone().requires_grad_())
    method.loss(model, batch).loss.backward()  # type: ignore[no-untyped-call]
    assert batch.unlabeled_weak.grad is None or not batch.unlabeled_weak.grad.any()  # type: ignore[union-attr]
    assert batch.unlabeled_weak_2.grad.any()  # type: ignore[union-attr]
    # The losses themselves are symmetric.
    assert torch.allclose(
        instance_loss(fast_BK, slow_BK, temperature=0.5), instance_loss(slow_BK, fast_BK, temperature=0.5)
    )


def test_in_the_last_stage_the_fast_pathway_is_trained() -> None:
    batch = views(0.9)
    object.__setattr__(batch, "unlabeled_weak", batch.unlabeled_weak.clone().requires_grad_())  # type: ignore[union-attr]
    TCL(TCLConfig(tau=0.5), **SIZES).loss(Watching(), batch).loss.backward()  # type: ignore[no-untyped-call]
    confidence_B = batch.unlabeled_weak.mean(dim=(1, 3, 4)).softmax(dim=1).amax(dim=1)  # type: ignore[union-attr]
    trained_B = batch.unlabeled_weak.grad.flatten(1).abs().sum(dim=1) > 0  # type: ignore[union-attr]
    assert torch.equal(trained_B, confidence_B >= 0.5)


def test_a_clip_is_no_negative_of_its_own() -> None:
    """With itself among them, a single pair could never reach 0."""
    assert instance_loss(FAST[:1], SLOW[:1], temperature=0.5) == pytest.approx(0)


def test_the_contrast_is_worked_out_by_hand() -> None:
    vectors = F.normalize(torch.cat([FAST, SLOW]))
    losses = []
    for row in range(6):
        others = [number for number in range(6) if number != row]
        exps = {number: float((vectors[row] @ vectors[number] / 0.5).exp()) for number in others}
        losses.append(-torch.tensor(exps[(row + 3) % 6] / sum(exps.values())).log())
    assert torch.allclose(instance_loss(FAST, SLOW, temperature=0.5), torch.stack(losses).mean())


def test_groups_that_only_one_pathway_has_do_not_count() -> None:
    """Class 2 is predicted by the slow pathway alone here, and changes nothing, as if it were not there."""
    with_class_2 = torch.cat([SLOW, torch.tensor([[0.1, 0.1, 0.8]])])
    fast_BK = torch.cat([FAST, FAST[:1]])
    groups = torch.stack([fast_BK[[0, 2, 3]].mean(0), fast_BK[1]]), torch.stack([SLOW[0], SLOW[1:].mean(0)])
    expected = contrastive_loss(*groups, keep_N=torch.ones(2, dtype=torch.bool), temperature=0.5)
    assert torch.allclose(group_loss(fast_BK, with_class_2, temperature=0.5), expected)


def test_pathways_that_agree_on_no_class_have_no_group_loss() -> None:
    slow_BK = torch.tensor([[0.1, 0.1, 0.8]]).requires_grad_()
    loss = group_loss(torch.tensor([[0.8, 0.1, 0.1]]), slow_BK, temperature=0.5)
    assert loss == 0
    assert torch.equal(torch.autograd.grad(loss, slow_BK)[0], torch.zeros(1, 3))


@pytest.mark.parametrize("num_frames", [1, 2, 7, 8])
def test_a_slow_clip_has_one_frame_of_each_two(num_frames: int) -> None:
    clips = torch.arange(num_frames).view(1, -1, 1, 1, 1).expand(50, -1, 3, 2, 2)
    torch.manual_seed(0)
    shown_BG = slow(clips)[:, :, 0, 0, 0]
    assert shown_BG.shape == (50, -(-num_frames // 2))
    for position, first in enumerate(range(0, num_frames, 2)):
        assert set(shown_BG[:, position].tolist()) == {first, min(first + 1, num_frames - 1)}
