"""Prototypes (Eq. 5). Letters: N samples, K classes, D features."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aplt.labeler import sums
from aplt.labeler.prototypes import build_prototypes

examples = settings(max_examples=60, deadline=None, derandomize=True)


def test_hand_worked() -> None:
    features_ND = torch.tensor([[0.0, 0.0], [2.0, 4.0], [9.0, 9.0], [1.0, 1.0]])
    labels_N = torch.tensor([0, 0, 1, 1])
    everything = build_prototypes(features_ND, labels_N, num_classes=2)
    assert everything.vectors_KD.tolist() == [[1.0, 2.0], [5.0, 5.0]]
    assert everything.support_K.tolist() == [2, 2]
    kept = build_prototypes(features_ND, labels_N, num_classes=2, keep_N=torch.tensor([True, False, True, True]))
    assert kept.vectors_KD.tolist() == [[0.0, 0.0], [5.0, 5.0]]
    assert kept.support_K.tolist() == [1, 2]


@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 40), st.integers(0, 2**31), st.integers(1, 30))
@examples
def test_means_of_the_kept_in_any_order_and_chunks(k: int, d: int, extra: int, seed: int, elements: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features_ND = torch.randn(k + extra, d, generator=generator)
    labels_N = torch.cat([torch.arange(k), torch.randint(k, (extra,), generator=generator)])
    keep_N = torch.cat([torch.ones(k, dtype=torch.bool), torch.rand(extra, generator=generator) < 0.5])
    found = build_prototypes(features_ND, labels_N, num_classes=k, keep_N=keep_N)
    for c in range(k):
        members = features_ND[keep_N & (labels_N == c)].double()
        torch.testing.assert_close(found.vectors_KD[c], members.mean(dim=0).float(), rtol=1e-6, atol=1e-8)
        assert found.support_K[c] == len(members)

    order_N = torch.randperm(len(labels_N), generator=generator)
    screened_N = torch.where(keep_N, labels_N, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sums.CHUNK_ELEMENTS, "cpu", elements)
        shuffled = build_prototypes(
            features_ND[order_N], screened_N[order_N].to(torch.int16), num_classes=k, keep_N=keep_N[order_N]
        )
    assert torch.equal(found.vectors_KD, shuffled.vectors_KD)
    assert torch.equal(found.support_K, shuffled.support_K)


def test_millions_of_samples_keep_their_precision() -> None:
    """A float32 running sum of these would be wrong in the fourth digit."""
    value = torch.tensor(0.1)
    found = build_prototypes(value.expand(2_000_000, 1), torch.zeros(2_000_000, dtype=torch.int8), num_classes=1)
    assert float(found.vectors_KD) == pytest.approx(float(value), rel=1e-7)


@pytest.mark.parametrize("keep", [None, [True, True, False]])
def test_a_class_without_support_is_refused(keep: list[bool] | None) -> None:
    labels_N = torch.tensor([0, 2, 1] if keep else [0, 2, 2])
    with pytest.raises(ValueError, match=r"every class needs a sample .* classes \[1\] of 3 have none"):
        build_prototypes(torch.ones(3, 2), labels_N, num_classes=3, keep_N=None if keep is None else torch.tensor(keep))


@pytest.mark.parametrize(
    ("features", "labels", "keep", "message"),
    [
        ([[1.0], [float("nan")]], [0, 0], None, "features_ND must be finite"),
        ([[1.0], [2.0]], [0, 1], None, r"must lie in 0\.\.0"),
        ([[1.0], [2.0]], [0, -1], None, r"must lie in 0\.\.0"),
        ([[1.0], [2.0]], [0], None, "labels_N must be 2 integers"),
        ([[1.0], [2.0]], [0, 0], [True], "keep_N must be 2 booleans"),
        ([[1.0], [2.0]], [0, 0], [1, 0], "keep_N must be 2 booleans"),
        ([1.0, 2.0], [0, 0], None, "must be a floating-point matrix"),
    ],
)
def test_misuse_is_refused(features: object, labels: list[int], keep: object, message: str) -> None:
    keep_N = None if keep is None else torch.tensor(keep)
    with pytest.raises(ValueError, match=message):
        build_prototypes(torch.tensor(features), torch.tensor(labels), num_classes=1, keep_N=keep_N)
