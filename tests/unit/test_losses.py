"""Losses and the learning rate. Letters: B batch, K classes, D features."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from aplt.trainer.losses import cosine_lr, cross_entropy, margin_loss, pseudo_label_loss, pseudo_labels

examples = settings(max_examples=40, deadline=None, derandomize=True)
LOG2 = math.log(2)


def gradient(of: Tensor, to: Tensor) -> Tensor:
    return torch.autograd.grad(of, to)[0]


def test_hand_worked() -> None:
    even_BK = torch.zeros(4, 2)
    assert float(cross_entropy(even_BK, torch.tensor([0, 1, 0, 1]))) == pytest.approx(LOG2)
    assert float(pseudo_label_loss(even_BK, torch.tensor([0, -1, -1, 1]))) == pytest.approx(LOG2 / 2)  # 2 of 4
    # similarities (1, 0) at temperature 1/log 3: odds of 3 to 1
    loss = margin_loss(torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([0]), temperature=1 / math.log(3))
    assert float(loss) == pytest.approx(math.log(4 / 3))


def test_pseudo_labels_pass_at_tau_and_above() -> None:
    logits_BK = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 9.0]])
    assert pseudo_labels(logits_BK, tau=0.5).tolist() == [0, 0, 1]  # exactly one half passes
    assert pseudo_labels(logits_BK, tau=0.9).tolist() == [-1, -1, 1]
    assert pseudo_labels(torch.full((1, 2), float("nan")), tau=0.0).tolist() == [-1]


def test_no_gradient_through_the_weak_branch() -> None:
    weights_DK = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weak_BD, strong_BD = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(1))
    targets_B = pseudo_labels(weak_BD @ weights_DK, tau=0.4)
    assert not targets_B.requires_grad
    got = gradient(pseudo_label_loss(strong_BD @ weights_DK, targets_B), weights_DK)
    fixed_B = targets_B.clone()
    wanted = gradient(pseudo_label_loss(strong_BD @ weights_DK, fixed_B), weights_DK)
    assert torch.equal(got, wanted)
    assert got.abs().sum() > 0


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**31))
@examples
def test_masked_consistency_is_a_sum_over_the_whole_batch(b: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_BK = torch.randn(b, k, generator=generator, requires_grad=True)
    targets_B = torch.randint(-1, k, (b,), generator=generator)
    loss = pseudo_label_loss(logits_BK, targets_B)
    log_p = logits_BK.detach().log_softmax(dim=1)
    wanted = -sum(float(log_p[i, t]) for i, t in enumerate(targets_B.tolist()) if t >= 0) / b
    assert loss.item() == pytest.approx(wanted, abs=1e-5)
    rows_B = gradient(loss, logits_BK).abs().sum(dim=1)
    assert not rows_B[targets_B < 0].any()


@given(st.integers(1, 12), st.integers(2, 6), st.integers(0, 2**31), st.sampled_from(["batch", "kept"]))
@examples
def test_margin_loss_masks_and_divisors(b: int, k: int, seed: int, reduction: Literal["batch", "kept"]) -> None:
    generator = torch.Generator().manual_seed(seed)
    features_BD, rho_KD = torch.randn(b, 4, generator=generator), torch.randn(k, 4, generator=generator)
    targets_B = torch.randint(k, (b,), generator=generator)
    keep_B = torch.rand(b, generator=generator) < 0.5
    each = F.cross_entropy(features_BD @ rho_KD.T / 0.7, targets_B, reduction="none")
    divisor = b if reduction == "batch" else max(1, int(keep_B.sum()))
    loss = margin_loss(features_BD, rho_KD, targets_B, keep_B=keep_B, temperature=0.7, reduction=reduction)
    torch.testing.assert_close(loss, each[keep_B].sum() / divisor)
    ignored_B = torch.where(keep_B, targets_B, -1)
    assert torch.equal(
        loss, margin_loss(features_BD, rho_KD, ignored_B, keep_B=keep_B, temperature=0.7, reduction=reduction)
    )
    everything = margin_loss(features_BD, rho_KD, targets_B, temperature=0.7, reduction=reduction)
    torch.testing.assert_close(everything, each.mean())
    all_B = torch.ones_like(keep_B)
    torch.testing.assert_close(everything, margin_loss(features_BD, rho_KD, targets_B, keep_B=all_B, temperature=0.7))


def test_margin_gradient_reaches_kept_features_and_never_prototypes() -> None:
    generator = torch.Generator().manual_seed(3)
    features_BD = torch.randn(3, 4, generator=generator, requires_grad=True)
    rho_KD = torch.randn(2, 4, generator=generator, requires_grad=True)
    loss = margin_loss(features_BD, rho_KD, torch.tensor([0, 1, 1]), keep_B=torch.tensor([True, False, True]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert rho_KD.grad is None
    assert features_BD.grad is not None
    assert features_BD.grad.abs().sum(dim=1).bool().tolist() == [True, False, True]


@pytest.mark.parametrize("reduction", ["batch", "kept"])
def test_nothing_kept_gives_zero_that_can_be_differentiated(reduction: Literal["batch", "kept"]) -> None:
    features_BD = torch.randn(3, 4, generator=torch.Generator().manual_seed(3), requires_grad=True)
    keep_B = torch.zeros(3, dtype=torch.bool)
    loss = margin_loss(features_BD, torch.eye(4), torch.zeros(3).long(), keep_B=keep_B, reduction=reduction)
    assert loss.item() == 0.0
    assert not gradient(loss, features_BD).any()
    assert float(pseudo_label_loss(torch.zeros(0, 3), torch.zeros(0).long())) == 0.0


def test_a_dropped_sample_cannot_poison_the_loss() -> None:
    features_BD = torch.tensor([[1.0, 0.0], [float("inf"), 0.0]])
    loss = margin_loss(features_BD, torch.eye(2), torch.tensor([0, 1]), keep_B=torch.tensor([True, False]))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)) / 2)


def test_similarities_are_float32_even_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    features_BD, rho_KD = F.normalize(torch.randn(2, 16, 64, generator=generator), dim=2)
    targets_B = torch.arange(16)
    wanted = margin_loss(features_BD, rho_KD, targets_B, temperature=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(margin_loss(features_BD, rho_KD, targets_B, temperature=0.05), wanted)


def test_targets_out_of_range_are_refused() -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        cross_entropy(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(IndexError, match="out of bounds"):
        cross_entropy(torch.zeros(1, 2), torch.tensor([-1]))
    with pytest.raises(IndexError, match="out of bounds"):
        margin_loss(torch.zeros(1, 2), torch.eye(2), torch.tensor([-1]))


def test_margin_misuse_is_refused() -> None:
    one_BD, target_B = torch.zeros(1, 2), torch.tensor([0])
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        margin_loss(one_BD, torch.eye(2), target_B, temperature=0)
    with pytest.raises(ValueError, match="reduction must be batch or kept, got 'mean'"):
        margin_loss(one_BD, torch.eye(2), target_B, reduction="mean")  # type: ignore[arg-type]


def test_cosine_falls_from_lr0_to_zero() -> None:
    rates = [cosine_lr(step, 100, 0.1) for step in range(101)]
    assert rates[0] == 0.1
    assert rates[50] == pytest.approx(0.05)
    assert rates[100] == 0.0
    assert rates == sorted(rates, reverse=True)
    for step, total in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(ValueError, match=r"step must lie in 0\.\.total"):
            cosine_lr(step, total, 0.1)
