"""Self-adaptive thresholds (Eq. 4). Letters: N samples, K classes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aplt.labeler.thresholds import Thresholds, self_adaptive_thresholds

examples = settings(max_examples=60, deadline=None, derandomize=True)
NUM_CLASSES = 4

# (distance in 1/64, class) pairs; classes may stay empty, distances may be zero or equal.
samples = st.lists(st.tuples(st.integers(0, 2**14), st.integers(0, NUM_CLASSES - 1)), max_size=40)


def tensors(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    distances_N = torch.tensor([distance / 64 for distance, _ in pairs], dtype=torch.float32)
    return distances_N, torch.tensor([label for _, label in pairs], dtype=torch.int64)


def solve(distances_N: Tensor, classes_N: Tensor, **options: float) -> tuple[Thresholds, Tensor]:
    found = self_adaptive_thresholds(distances_N, classes_N, num_classes=NUM_CLASSES, **options)  # type: ignore[arg-type]
    return found, found.keep(distances_N, classes_N)


def test_hand_worked() -> None:
    distances_N = torch.tensor([1.0, 3.0, 2.0, 6.0])  # means 2 and 4, together 3, so r = 3/4
    classes_N = torch.tensor([0, 0, 1, 1])
    found = self_adaptive_thresholds(distances_N, classes_N, num_classes=2)
    assert found.global_threshold == 3.0
    assert found.local_K.tolist() == [2.0, 4.0]
    assert found.adaptive_K.tolist() == [1.5, 3.0]
    assert found.ratio == 0.75
    assert found.keep(distances_N, classes_N).tolist() == [True, False, True, False]


@given(samples)
@examples
def test_kept_is_what_lies_below_one_common_share_of_its_class_mean(pairs: list[tuple[int, int]]) -> None:
    distances_N, classes_N = tensors(pairs)
    found, keep_N = solve(distances_N, classes_N)
    assert 0 <= found.ratio <= 1 + 1e-12
    for distance, label, kept in zip(distances_N.tolist(), classes_N.tolist(), keep_N.tolist(), strict=True):
        local = float(distances_N[classes_N == label].double().mean())
        if local == 0:
            assert not kept
        elif abs(distance / local - found.ratio) > 1e-6:
            assert kept == (distance / local < found.ratio)


@given(samples)
@examples
def test_agrees_with_the_definition(pairs: list[tuple[int, int]]) -> None:
    distances_N, classes_N = tensors(pairs)
    found, _ = solve(distances_N, classes_N)
    members = [distances_N[classes_N == c].double() for c in range(NUM_CLASSES)]
    local_K = torch.stack([m.mean() if len(m) else torch.tensor(0.0).double() for m in members])
    overall = float(distances_N.double().mean()) if pairs else 0.0
    adaptive_K = local_K / local_K.max() * overall if local_K.max() > 0 else torch.zeros_like(local_K)
    assert found.global_threshold == pytest.approx(overall, rel=1e-9)
    torch.testing.assert_close(found.local_K, local_K.float())
    torch.testing.assert_close(found.adaptive_K, adaptive_K.float())


@given(samples, st.integers(0, 2**31), st.integers(-40, 40))
@examples
def test_order_and_scale_do_not_matter(pairs: list[tuple[int, int]], seed: int, exponent: int) -> None:
    distances_N, classes_N = tensors(pairs)
    order_N = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    first, keep_N = solve(distances_N, classes_N)
    second, keep_shuffled_N = solve(distances_N[order_N] * 2.0**exponent, classes_N[order_N])
    assert torch.equal(keep_N[order_N], keep_shuffled_N)
    assert torch.equal(first.adaptive_K * 2.0**exponent, second.adaptive_K)
    assert first.ratio == second.ratio


@given(st.integers(1, 30), st.floats(2**-20, 2.0**20, width=32))
@examples
def test_equal_distances_are_all_dropped(count: int, distance: float) -> None:
    classes_N = torch.arange(count) % NUM_CLASSES
    found, keep_N = solve(torch.full((count,), distance), classes_N)
    assert not keep_N.any()
    assert found.ratio == 1.0


@given(samples)
@examples
def test_a_single_member_is_dropped(pairs: list[tuple[int, int]]) -> None:
    distances_N, classes_N = tensors(pairs)
    _, keep_N = solve(distances_N, classes_N)
    for label in range(NUM_CLASSES):
        if (classes_N == label).sum() == 1:
            assert not keep_N[classes_N == label].any()


def test_empty_classes_and_no_samples() -> None:
    found, keep_N = solve(torch.tensor([1.0, 3.0]), torch.tensor([2, 2]))
    assert found.local_K.tolist() == [0, 0, 2, 0]
    assert found.adaptive_K.tolist() == [0, 0, 2, 0]
    assert keep_N.tolist() == [True, False]
    nothing, keep_N = solve(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert (nothing.global_threshold, nothing.ratio, keep_N.shape) == (0.0, 0.0, (0,))
    zeros, keep_N = solve(torch.zeros(3), torch.tensor([0, 1, 1]))
    assert zeros.ratio == 0.0
    assert not keep_N.any()


def test_scale_and_min_count() -> None:
    distances_N, classes_N = torch.tensor([1.0, 3.0, 8.0]), torch.tensor([0, 0, 1])
    plain, _ = solve(distances_N, classes_N)
    assert plain.ratio == 0.5
    scaled, keep_N = solve(distances_N, classes_N, sat_scale=2.5)
    assert torch.equal(scaled.adaptive_K, plain.adaptive_K * 2.5)
    assert scaled.ratio == plain.ratio
    assert keep_N.tolist() == [True, False, True]
    counted, keep_N = solve(distances_N, classes_N, min_count=2)  # one far sample no longer sets the scale
    assert counted.ratio == 2.0
    assert counted.adaptive_K.tolist() == [4.0, 16.0, 0.0, 0.0]
    everybody_small, _ = solve(distances_N, classes_N, min_count=9)
    assert torch.equal(everybody_small.adaptive_K, plain.adaptive_K)


def test_other_samples_can_be_judged() -> None:
    found, _ = solve(torch.tensor([1.0, 3.0, 2.0, 6.0]), torch.tensor([0, 0, 1, 1]))
    assert found.keep(torch.tensor([2.9, 3.0]), torch.tensor([1, 1], dtype=torch.int16)).tolist() == [True, False]


@pytest.mark.parametrize(
    ("distances", "classes", "options", "message"),
    [
        ([1.0, float("nan")], [0, 1], {}, "distances_N must be finite"),
        ([1.0, float("inf")], [0, 1], {}, "distances_N must be finite"),
        ([1.0, -0.5], [0, 1], {}, "must not be negative"),
        ([1.0, 2.0], [0, 4], {}, r"must lie in 0\.\.3"),
        ([1.0, 2.0], [0, -1], {}, r"must lie in 0\.\.3"),
        ([1.0, 2.0], [0], {}, "must be 2 integers"),
        ([[1.0], [2.0]], [0, 1], {}, "one number per sample"),
        ([1.0], [0], {"sat_scale": 0.0}, "sat_scale must be above 0"),
        ([1.0], [0], {"min_count": 0}, "min_count at least 1"),
    ],
)
def test_misuse_is_refused(distances: object, classes: list[int], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(torch.tensor(distances), torch.tensor(classes), **options)
