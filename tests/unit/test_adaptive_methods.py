"""The running state of FlexMatch, FreeMatch and SoftMatch. Letters: B batch, K classes, N unlabelled clips."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aplt.trainer.config import FlexMatchConfig, FreeMatchConfig, SoftMatchConfig
from aplt.trainer.methods import Batch, StepOutput
from aplt.trainer.methods.flexmatch import FlexMatch
from aplt.trainer.methods.freematch import FreeMatch, fairness_loss
from aplt.trainer.methods.softmatch import SoftMatch, aligned

K, N = 3, 6
SIZES: dict[str, Any] = {"num_classes": K, "feature_dim": K, "num_unlabeled": N, "normalize": "l2"}


class Given(nn.Module):
    """Clips whose features and logits are the mean of their pixels, so that a test can choose them."""

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        logits_BK = clips.mean(dim=(1, 3, 4))
        return logits_BK, logits_BK


def clips(probabilities: list[list[float]]) -> Tensor:
    """Clips [B, 1, 3, 1, 1] that the network above gives these probabilities."""
    return torch.tensor(probabilities).log()[:, None, :, None, None]


def step(
    method: Any, weak: list[list[float]], positions: list[int], strong: list[list[float]] | None = None
) -> StepOutput:
    batch = Batch(
        progress=0.0,
        labels_B=torch.zeros(len(weak), dtype=torch.int64),
        labeled_weak=clips([[0.9, 0.05, 0.05]] * len(weak)),
        unlabeled_weak=clips(weak),
        unlabeled_strong=clips(strong or weak),
        position_B=torch.tensor(positions),
    )
    output: StepOutput = method.loss(Given(), batch)
    return output


SURE_0, SURE_1, UNSURE_1 = [0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.3, 0.4, 0.3]


def test_flexmatch_lets_everything_pass_at_first_and_thresholds_rise_with_what_is_learnt() -> None:
    method = FlexMatch(FlexMatchConfig(threshold_warmup=False), **SIZES)
    assert step(method, [SURE_0, UNSURE_1], [0, 1]).online_labels_B.tolist() == [0, 1]  # type: ignore[union-attr]
    assert method.selected.tolist() == [0, -1, -1, -1, -1, -1]  # tau itself decides what counts
    assert method.status.tolist() == [1, 0, 0]
    # class 0 is learnt and has the full threshold; class 1 still has none
    passed = step(method, [[0.9, 0.05, 0.05], UNSURE_1], [2, 3]).online_labels_B
    assert passed is not None
    assert passed.tolist() == [-1, 1]


def test_flexmatch_remembers_each_clip_by_its_position_and_the_last_confident_prediction_counts() -> None:
    method = FlexMatch(FlexMatchConfig(), **SIZES)
    step(method, [SURE_0, SURE_0], [4, 2])
    step(method, [SURE_1, UNSURE_1], [4, 2])
    assert method.selected.tolist() == [-1, -1, 0, -1, 1, -1]
    # over the four clips that were never selected; the counts are of all clips, not of the batch
    assert method.status.tolist() == [0.25, 0.25, 0]


def test_flexmatch_uses_the_thresholds_of_the_step_before() -> None:
    method = FlexMatch(FlexMatchConfig(threshold_warmup=False), **SIZES)
    first = step(method, [SURE_0, [0.9, 0.05, 0.05]], [0, 1]).online_labels_B
    assert first is not None
    assert first.tolist() == [0, 0]  # the second would not reach the threshold that the first brings about


def test_freematch_starts_from_nothing_but_the_number_of_classes() -> None:
    method = FreeMatch(FreeMatchConfig(), **SIZES)
    for value in method.state_dict().values():
        assert torch.allclose(value, torch.tensor(1 / K))


def test_freematch_takes_a_step_in_before_it_uses_the_thresholds() -> None:
    method = FreeMatch(FreeMatchConfig(momentum=0.0), **SIZES)
    output = step(method, [SURE_0, SURE_0, [0.6, 0.3, 0.1]], [0, 1, 2])
    assert output.online_labels_B is not None
    assert output.online_labels_B.tolist() == [0, 0, -1]  # 0.6 passes 1/3, not the mean of this batch
    assert float(method.tau) == pytest.approx((0.98 + 0.98 + 0.6) / 3)


def test_freematch_asks_less_of_a_class_that_is_seldom_predicted() -> None:
    method = FreeMatch(FreeMatchConfig(momentum=0.5), **SIZES)
    for _ in range(5):
        step(method, [SURE_0, SURE_0, SURE_1], [0, 1, 2])
    thresholds_K = method.thresholds()
    assert thresholds_K[0] == method.tau
    assert thresholds_K[0] > thresholds_K[1] > thresholds_K[2]


def test_the_fairness_term_is_nothing_where_nothing_is_kept() -> None:
    logits_BK = torch.randn(4, K, generator=torch.Generator().manual_seed(0), requires_grad=True)
    uniform_K = torch.full((K,), 1 / K)
    loss = fairness_loss(logits_BK, torch.zeros(4, dtype=torch.bool), mean_K=uniform_K, histogram_K=uniform_K)
    assert loss == 0
    assert torch.equal(torch.autograd.grad(loss, logits_BK)[0], torch.zeros(4, K))


def test_an_absent_class_adds_a_constant_to_the_fairness_term_and_no_infinite_gradient() -> None:
    logits_BK = torch.tensor([[3.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 2.0, 0.0]], requires_grad=True)
    mean_K, histogram_K = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.5, 0.25, 0.25])
    loss = fairness_loss(logits_BK, torch.ones(3, dtype=torch.bool), mean_K=mean_K, histogram_K=histogram_K)
    share_K = mean_K / histogram_K
    share_K = share_K / share_K.sum()
    ratio_K = logits_BK.softmax(dim=1).mean(dim=0)[:2] / torch.tensor([2 / 3, 1 / 3])
    present = (share_K[:2] * (ratio_K / ratio_K.sum()).log()).sum()
    assert torch.allclose(loss, present + share_K[2] * torch.tensor(1e-12).log())
    got, wanted = (torch.autograd.grad(value, logits_BK, retain_graph=True)[0] for value in (loss, present))
    assert torch.allclose(got, wanted, atol=1e-6)
    assert got.abs().sum() > 0


def test_the_fairness_term_trains_the_strong_view_alone() -> None:
    method = FreeMatch(FreeMatchConfig(lambda_u=0.0, lambda_fairness=1.0), **SIZES)
    output = step(method, [SURE_0, SURE_1], [0, 1], strong=[[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    assert torch.allclose(output.loss, output.parts["sup_logits"] + output.parts["fairness"])
    assert all(not value.requires_grad for value in method.state_dict(keep_vars=True).values())


def test_softmatch_takes_the_mean_of_the_first_batch_and_moves_on_slowly() -> None:
    method = SoftMatch(SoftMatchConfig(momentum=0.9), **SIZES)
    step(method, [SURE_0, SURE_1], [0, 1])
    assert method.mean.tolist() == pytest.approx([0.495, 0.495, 0.01])
    step(method, [SURE_0, SURE_0], [0, 1])
    assert method.mean.tolist() == pytest.approx([0.9 * 0.495 + 0.098, 0.9 * 0.495 + 0.001, 0.01])


def test_softmatch_with_a_batch_of_one_keeps_its_variance() -> None:
    method = SoftMatch(SoftMatchConfig(), **SIZES)
    output = step(method, [UNSURE_1], [0])
    assert torch.isfinite(output.loss)
    assert float(method.variance) == 1.0


def test_softmatch_uses_every_clip_with_less_weight_below_the_mean() -> None:
    method = SoftMatch(SoftMatchConfig(momentum=0.0), **SIZES)
    weak = [SURE_0, SURE_1, [0.1, 0.2, 0.7], UNSURE_1]
    output = step(method, weak, [0, 1, 2, 3], strong=[[1 / 3] * 3] * 4)
    assert output.online_labels_B is not None
    assert output.online_labels_B.tolist() == [0, 1, 2, 1]  # of the predictions as they are, not as they are aligned
    assert 0 < output.parts["weight"] < 1
    log_k = torch.tensor(float(K)).log()
    assert torch.allclose(output.parts["u_logits"], output.parts["weight"] * log_k)  # over the whole batch


def test_softmatch_with_clips_all_alike_gives_them_all_full_weight() -> None:
    method = SoftMatch(SoftMatchConfig(momentum=0.0), **SIZES)
    assert step(method, [UNSURE_1, UNSURE_1], [0, 1]).parts["weight"] == 1


def test_softmatch_aligns_to_even_or_to_the_labelled_classes() -> None:
    weak_BK = torch.tensor([SURE_0, SURE_0, SURE_1, UNSURE_1])
    mean_K = weak_BK.mean(dim=0)
    even = aligned(weak_BK, mean_K=mean_K, target_K=torch.full((K,), 1 / K))
    assert torch.allclose(even.sum(dim=1), torch.ones(4))
    assert even[3, 0] < weak_BK[3, 0]  # class 0 is predicted too often
    weights = {}
    for align_to in ("uniform", "labeled"):
        method = SoftMatch(SoftMatchConfig(align_to=align_to), **SIZES)  # type: ignore[arg-type]
        step(method, weak_BK.tolist(), [0, 1, 2, 3])
        weights[align_to] = float(method.mu)
        assert method.labeled.tolist() == [4, 0, 0]
    assert weights["labeled"] > weights["uniform"]  # all labelled clips are of class 0: all is aligned to it
