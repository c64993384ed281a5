"""Mean Teacher and MixMatch beyond what holds for every method. Letters: B batch, N clips, K classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aplt.trainer.config import MeanTeacherConfig, MixMatchConfig
from aplt.trainer.methods import Batch, StepOutput
from aplt.trainer.methods.base import frozen_statistics
from aplt.trainer.methods.mean_teacher import MeanTeacher, consistency_loss
from aplt.trainer.methods.mixmatch import MixMatch, mix, own_shares

SIZES: dict[str, Any] = {"num_classes": 3, "feature_dim": 3, "num_unlabeled": 4, "normalize": "l2"}
FIRST, SECOND, SHARPENED = [0.6, 0.3, 0.1], [0.4, 0.5, 0.1], [0.595238, 0.380952, 0.023810]


class Given(nn.Module):
    """Clips whose logits are the mean of their pixels, times a weight that starts at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        logits_BK = clips.mean(dim=(1, 3, 4)) * self.weight
        return logits_BK, logits_BK


def clips(*probabilities: list[float]) -> Tensor:
    """Clips [B, 1, 3, 1, 1] that the network above gives these probabilities at first."""
    return torch.tensor(probabilities).log()[:, None, :, None, None]


def step(method: Any, model: nn.Module) -> StepOutput:
    batch = Batch(
        progress=0.5,
        labels_B=torch.tensor([0]),
        labeled_weak=clips([0.9, 0.05, 0.05]),
        unlabeled_weak=clips(FIRST),
        unlabeled_weak_2=clips(SECOND),
        position_B=torch.tensor([0]),
    )
    output: StepOutput = method.loss(model, batch)
    return output


def test_the_student_learns_from_the_teacher_and_the_teacher_from_nobody() -> None:
    """A public implementation takes the student's logits from the teacher, and nothing but labels trains it."""
    model, method = Given(), MeanTeacher(MeanTeacherConfig(), **SIZES)
    method.begin(model)
    output = step(method, model)
    supervised = nn.functional.cross_entropy(model(clips([0.9, 0.05, 0.05]))[1], torch.tensor([0]))
    learnt, from_labels = (
        torch.autograd.grad(loss, model.weight, retain_graph=True)[0] for loss in (output.loss, supervised)
    )
    assert not torch.allclose(learnt, from_labels)
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is None and not value.requires_grad for value in method.teacher.parameters())
    squares = sum((a - b) ** 2 for a, b in zip(SECOND, FIRST, strict=True))
    assert float(output.parts["consistency"]) == pytest.approx(squares / 3)  # a mean over the classes


def test_the_consistency_is_one_way() -> None:
    student_BK, teacher_BK = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradients = torch.autograd.grad(
        consistency_loss(student_BK, teacher_BK), [student_BK, teacher_BK], allow_unused=True
    )
    assert gradients[0].abs().sum() > 0
    assert gradients[1] is None


def test_the_teacher_is_a_plain_mean_at_first_and_a_moving_average_later() -> None:
    model, method = Given(), MeanTeacher(MeanTeacherConfig(decay=0.75), **SIZES)
    method.begin(model)
    seen = []
    for value in (2.0, 4.0, 6.0, 8.0, 16.0):
        with torch.no_grad():
            model.weight.fill_(value)
        method.after_step(model)
        seen.append(float(method.teacher.weight[0]))  # type: ignore[index, arg-type]
    assert seen == pytest.approx([2, 3, 4, 5, 0.75 * 5 + 0.25 * 16])
    assert method.tested(model) is method.teacher


def test_mixmatch_without_mixing_is_worked_out_by_hand() -> None:
    model = Given()
    output = step(MixMatch(MixMatchConfig(alpha=0.0), **SIZES), model)
    squares = [(p - q) ** 2 for view in (FIRST, SECOND) for p, q in zip(view, SHARPENED, strict=True)]
    assert float(output.parts["u_probabilities"]) == pytest.approx(sum(squares) / 6, rel=1e-4)
    assert float(output.parts["sup_logits"]) == pytest.approx(-torch.tensor(0.9).log().item())
    # The guesses are constants: the gradient is that of the predictions alone.
    got = torch.autograd.grad(output.loss, model.weight)[0]
    logits_NK = clips([0.9, 0.05, 0.05], FIRST, SECOND).mean(dim=(1, 3, 4)) * model.weight
    guess = torch.tensor([SHARPENED, SHARPENED])
    wanted = nn.functional.cross_entropy(logits_NK[:1], torch.tensor([0])) + 100 * nn.functional.mse_loss(
        logits_NK[1:].softmax(dim=1), guess
    )
    assert torch.allclose(got, torch.autograd.grad(wanted, model.weight)[0], rtol=1e-3)


def test_a_mixture_stays_closer_to_its_own_clip_with_one_share_for_all_its_frames() -> None:
    torch.manual_seed(0)
    share_N = own_shares(200, alpha=0.5)
    assert share_N.min() >= 0.5
    assert len(share_N.unique()) > 100  # one per clip
    video = torch.randn(2, 4, 3, 5, 5)
    mixed = mix(video, torch.tensor([1, 0]), torch.tensor([0.8, 0.6]))
    assert torch.allclose(mixed[0], 0.8 * video[0] + 0.2 * video[1], atol=1e-6)
    assert torch.allclose(mixed[1], 0.6 * video[1] + 0.4 * video[0], atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(nn.BatchNorm1d, (4, 2)), (nn.BatchNorm2d, (4, 2, 3, 3)), (nn.BatchNorm3d, (4, 2, 3, 3, 3))],
)
def test_guessing_leaves_running_statistics_alone_whatever_their_dimensions(
    norm: type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d], shape: tuple[int, ...]
) -> None:
    """Public implementations look for BatchNorm2d alone, and do nothing to networks for video."""
    model = nn.Sequential(norm(2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = 5 + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with frozen_statistics(model):
        frozen = model(inputs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(frozen, model(inputs))  # normalised by the batch all the same
    assert not torch.equal(model.state_dict()["0.running_mean"], before["0.running_mean"])
