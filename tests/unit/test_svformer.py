"""SVFormer beyond what holds for every method, and what its published code does wrong. Letters: B batch, T frames."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aplt.trainer.config import SVFormerConfig
from aplt.trainer.methods import Batch
from aplt.trainer.methods.svformer import CELLS, SVFormer, draw_tube, draw_warp, mixed_targets, warped

B, T = 4, 8
SIZES: dict[str, Any] = {"num_classes": 3, "feature_dim": 3, "num_unlabeled": B, "normalize": "l2"}


class Network(nn.Module):
    """Normalised clips whose logits are the mean of their pixels; remembers the clips that it saw, by mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(3)
        self.head = nn.Linear(3, 3)
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append((self.training, clips.detach().clone()))
        features_BD = self.norm(clips.transpose(1, 2)).mean(dim=(2, 3, 4))
        return features_BD, self.head(features_BD)


def views() -> Batch:
    generator = torch.Generator().manual_seed(0)
    clips = {
        name: torch.randn(B, T, 3, CELLS, CELLS, generator=generator)
        for name in ("labeled_weak", "unlabeled_weak", "unlabeled_strong")
    }
    return Batch(progress=0.5, labels_B=torch.tensor([0, 1, 2, 0]), position_B=torch.arange(B), **clips)


def begun(**settings: Any) -> tuple[Network, SVFormer]:
    torch.manual_seed(0)
    model = Network()
    method = SVFormer(SVFormerConfig.model_validate({"name": "svformer", **settings}), **SIZES)
    method.begin(model)
    return model, method


def test_one_step_shows_the_student_all_its_views_and_the_teacher_the_weak_one() -> None:
    """The published code cannot: its constants are defined nowhere, and one forward gets an argument too many."""
    model, method = begun()
    batch = views()
    output = method.loss(model, batch)
    ((training, of_teacher),) = method.teacher.seen  # type: ignore[misc]
    assert not training
    assert torch.equal(of_teacher, batch.unlabeled_weak)  # type: ignore[arg-type]
    ((training, of_student),) = model.seen
    assert training
    assert len(of_student) == 3 * B
    parts = output.parts
    assert torch.allclose(output.loss, parts["sup_logits"] + 2 * parts["u_logits"] + 2 * parts["u_mix"])


def test_the_warp_changes_one_side_of_a_mixture_alone() -> None:
    """The published one writes in place, so that all strong views are warped."""
    model, method = begun()
    batch = views()
    strong = batch.unlabeled_strong
    assert strong is not None
    before = strong.clone()
    torch.manual_seed(3)
    method.loss(model, batch)
    assert torch.equal(strong, before)
    _, seen, mixed = model.seen[0][1].split(B)
    assert torch.equal(seen, before)
    own = (mixed == before).all(dim=2).flatten(2)  # [B, T, cells]
    assert (own.all(dim=1) | ~own.any(dim=1)).float().mean() > 0.9  # a tube: a cell shows the same clip in all frames
    tube = own.all(dim=1)
    assert torch.equal(tube[0], tube[1])  # and in all clips
    others = mixed.flatten(3)[..., ~tube[0]]
    frames = before.flatten(3)[..., ~tube[0]]
    for clip in others:  # what is not its own is frames of one other clip, in their order
        matches = (clip[:, None, None] == frames[None]).all(dim=-1).all(dim=-1)  # [T, B, T]
        owner = int(matches.any(dim=2).all(dim=0).nonzero()[0])
        shown = matches[:, owner].float().argmax(dim=1)
        assert (shown.diff() >= 0).all()


@pytest.mark.parametrize("num_frames", [1, 2, 3, 8])
def test_a_slowed_down_clip_keeps_the_order_of_some_frames(num_frames: int) -> None:
    torch.manual_seed(0)
    counts = set()
    for _ in range(300):
        shown = draw_warp(num_frames)
        assert len(shown) == num_frames
        assert (shown.diff() >= 0).all()
        kept = shown.unique()
        for frame in kept[1:]:  # each is shown from its own moment on at the latest
            assert shown[frame] == frame
        assert (shown[: int(kept[0])] == kept[0]).all()
        counts.add(len(kept))
    assert counts == {max(1, num_frames // 4), max(1, num_frames // 2), num_frames}


def test_the_switch_to_the_next_frame_may_come_at_any_moment_up_to_its_own() -> None:
    torch.manual_seed(0)
    seen = {tuple(draw_warp(4).tolist()) for _ in range(500)}
    assert {(0, 0, 0, 3), (0, 0, 3, 3), (0, 3, 3, 3)} <= seen
    clips = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(2, -1, 3, 2, 2)
    frames_BT = torch.tensor([[0, 0, 3, 3], [1, 1, 1, 1]])
    assert torch.equal(warped(clips, frames_BT)[:, :, 0, 0, 0], frames_BT.float())


def test_the_share_of_a_mixture_is_what_is_seen_of_it() -> None:
    """The published code rounds the mask down to whole cells, but not the share in the label."""
    torch.manual_seed(0)
    shares = []
    for _ in range(50):
        mask, share = draw_tube(28, 42, alpha=10.0)
        assert mask.shape == (28, 42)
        assert float(mask.float().mean()) == pytest.approx(share)
        cells = mask.view(CELLS, 2, CELLS, 3)
        assert torch.equal(cells, cells[:, :1, :, :1].expand_as(cells))
        shares.append(share)
    assert 0.4 < sum(shares) / len(shares) < 0.6
    assert min(shares) > 0.1
    assert max(shares) < 0.9


def test_a_mask_of_cells_is_a_mask_of_the_tokens_of_a_vit() -> None:
    torch.manual_seed(0)
    embed = nn.Conv2d(3, 5, 16, stride=16)
    mask, _ = draw_tube(224, 224, alpha=10.0)
    first, second = torch.randn(2, 1, 3, 224, 224)
    of_tokens = torch.where(mask[::16, ::16], embed(first), embed(second))
    assert torch.allclose(embed(torch.where(mask, first, second)), of_tokens, atol=1e-5)


def test_clips_without_a_pseudo_label_have_soft_targets_and_no_weight_of_their_own() -> None:
    teacher_BK = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]])
    order_B = torch.tensor([1, 0])
    for pseudo, weight in (([-1, -1], [0, 0]), ([0, -1], [0.7, 0.3]), ([0, 0], [1, 1])):
        targets_BK, weight_B = mixed_targets(teacher_BK, torch.tensor(pseudo), order_B, share=0.7)
        assert torch.allclose(weight_B, torch.tensor(weight, dtype=torch.float32))
        assert torch.allclose(targets_BK.sum(dim=1), torch.ones(2))
    assert torch.allclose(targets_BK, torch.tensor([[1.0, 0, 0]]).expand(2, -1))


def test_the_mixture_is_judged_by_probabilities_unless_told_otherwise() -> None:
    """The published code takes the squared difference of logits to probabilities."""
    losses = []
    for on_logits in (False, True):
        model, method = begun(mix_on_logits=on_logits)
        with torch.no_grad():
            model.head.weight.mul_(30)
            method.teacher.head.weight.mul_(30)  # type: ignore[union-attr, operator]
        torch.manual_seed(1)
        losses.append(method.loss(model, views()).parts["u_mix"])
    assert losses[0] <= 1
    assert losses[1] > losses[0]


def test_the_target_of_a_mixture_is_mixed_as_its_pixels_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some clips have a pseudo-label; the order is not its own inverse, and the shares are far from equal."""
    model, method = begun(tau=0.5, alpha=0.5)
    with torch.no_grad():
        method.teacher.head.weight.mul_(60)  # type: ignore[union-attr, operator]
    batch = views()
    weak, strong = batch.unlabeled_weak, batch.unlabeled_strong
    assert weak is not None
    assert strong is not None
    order_B = torch.tensor([1, 2, 3, 0])
    tube = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    tube[:3] = True
    share = 3 / CELLS
    monkeypatch.setattr(
        "aplt.trainer.methods.svformer.torch.randperm", lambda n: order_B if n == B else torch.arange(n)
    )
    monkeypatch.setattr("aplt.trainer.methods.svformer.draw_tube", lambda *_, **__: (tube, share))
    monkeypatch.setattr("aplt.trainer.methods.svformer.draw_warp", torch.arange)  # slows nothing down
    found = method.loss(model, batch).parts["u_mix"]

    mixed = torch.where(tube, strong, strong[order_B])
    assert torch.equal(model.seen[0][1][2 * B :], mixed)
    teacher_BK = method.teacher(weak)[1].softmax(dim=1)
    confidence_B, guess_B = teacher_BK.max(dim=1)
    passed_B = confidence_B >= 0.5
    assert 0 < passed_B.sum() < B
    own_BK = torch.where(passed_B[:, None], torch.eye(3)[guess_B], teacher_BK)
    predicted_BK = copy.deepcopy(model)(torch.cat([batch.labeled_weak, strong, mixed]))[1][2 * B :].softmax(dim=1)
    expected = torch.zeros(())
    for clip in range(B):
        other = int(order_B[clip])
        target_K = share * own_BK[clip] + (1 - share) * own_BK[other]
        weight = share * passed_B[clip] + (1 - share) * passed_B[other]
        expected = expected + weight * (predicted_BK[clip] - target_K).square().mean() / B
    assert torch.allclose(found, expected)


def test_the_teacher_follows_with_its_running_statistics() -> None:
    model, method = begun(decay=0.9)
    before = copy.deepcopy(method.teacher.state_dict())
    method.loss(model, views())
    with torch.no_grad():
        model.head.weight.add_(1.0)
    method.after_step(model)
    student, teacher = model.state_dict(), method.teacher.state_dict()
    for name in ("head.weight", "norm.running_mean", "norm.running_var"):
        assert torch.allclose(teacher[name], 0.9 * before[name] + 0.1 * student[name])
        assert not torch.allclose(teacher[name], before[name])
    assert teacher["norm.num_batches_tracked"] == student["norm.num_batches_tracked"] == 1


def test_the_student_predicts_unless_told_otherwise() -> None:
    for tested in ("student", "teacher"):
        model, method = begun(tested=tested)
        assert method.tested(model) is {"student": model, "teacher": method.teacher}[tested]
