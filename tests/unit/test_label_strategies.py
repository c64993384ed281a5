"""Where labels can come from besides the paper's full method, and what keeps them (Tables 3 and 4, open choices)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aplt.common.artifacts import LabelVersion
from aplt.labeler.clustering import kmeans
from aplt.labeler.pipeline import labels_of_head, make_labels
from aplt.labeler.thresholds import fixed_threshold, self_adaptive_thresholds
from aplt.trainer.losses import pseudo_labels

examples = settings(max_examples=40, deadline=None, derandomize=True)


def labels_of(unlabeled: list[list[float]], labeled: list[list[float]], labels: list[int], **changes: Any) -> Any:
    given: dict[str, Any] = {
        "version": 1,
        "epoch": 3,
        "rows_N": np.arange(len(unlabeled), dtype=np.int32),
        "unlabeled_ND": torch.tensor(unlabeled),
        "labeled_MD": torch.tensor(labeled),
        "labels_M": torch.tensor(labels),
        "augmented_AD": None,
        "augmented_labels_A": None,
        "num_classes": 2,
        "normalize": "none",
        "max_iterations": 100,
        "tolerance": 1e-4,
        "sat_scale": 1.0,
        "filtered_prototypes": True,
    }
    return make_labels(**(given | changes))


def golden_a(**changes: Any) -> Any:
    xs = (1.0, 2.0, 4.0, 5.5, 6.0, 9.0, 12.0)
    return labels_of(
        [[x, 1.0] for x in xs], [[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]], [0, 0, 1, 1], **changes
    )


def golden_b(**changes: Any) -> Any:
    xs = (1.0, 4.8, 6.9, 7.1, 9.0, 9.5, 10.0)
    return labels_of([[x, 0.0] for x in xs], [[0.0, 0.0], [7.0, 0.0], [10.0, 0.0]], [0, 0, 1], **changes)


def test_kmeans_moves_a_labelled_clip_that_anchors_hold() -> None:
    anchored, free = golden_b(), golden_b(strategy="kmeans")
    assert anchored.centroids_KD == pytest.approx(np.array([[3.2, 0], [8.75, 0]]), abs=1e-5)
    assert free.centroids_KD == pytest.approx(np.array([[1.933333, 0], [8.5, 0]]), abs=1e-5)
    assert anchored.labels_N.tolist() == free.labels_N.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert len(free.distances_N) == len(free.kept_N) == 7  # of the unlabelled clips alone


@given(st.integers(0, 2**31))
@examples
def test_kmeans_is_plain_kmeans_of_all_clips_from_the_means_of_the_labelled_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labeled, unlabeled = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(20, 3)).astype(np.float32)
    classes_M = np.array([0, 0, 1, 1, 2, 2])
    found = labels_of(unlabeled.tolist(), labeled.tolist(), classes_M.tolist(), num_classes=3, strategy="kmeans")
    start_KD = torch.from_numpy(np.stack([labeled[classes_M == c].mean(axis=0) for c in range(3)]))
    expected = kmeans(torch.from_numpy(np.concatenate([labeled, unlabeled])), start_KD)
    np.testing.assert_allclose(found.centroids_KD, expected.centroids_KD.numpy(), rtol=1e-4, atol=1e-5)
    assert found.labels_N.tolist() == expected.assignments_N[6:].tolist()


def test_no_threshold_keeps_all_and_says_what_keeps_them() -> None:
    labels = golden_a(threshold="none")
    assert labels.kept_N.all()
    assert (labels.distances_N < labels.adaptive_K[labels.labels_N]).all()
    assert labels.prototypes_KD == pytest.approx(np.array([[1.4, 1], [8.75, 1]]), abs=1e-5)
    assert labels.centroids_KD == pytest.approx(golden_a().centroids_KD)


def test_squared_distances_are_averaged_and_returned_as_distances() -> None:
    distances_N = torch.tensor([0.4, 0.6, 2.6, 3.25, 2.75, 0.25, 3.25])
    found = self_adaptive_thresholds(distances_N, torch.tensor([0, 0, 0, 1, 1, 1, 1]), num_classes=2, squared=True)
    assert found.global_threshold**2 == pytest.approx(5.147143, abs=1e-5)
    assert found.local_K.square().tolist() == pytest.approx([2.426667, 7.1875], abs=1e-5)
    assert found.adaptive_K.square().tolist() == pytest.approx([1.737795, 5.147143], abs=1e-5)
    labels = golden_a(sat_squared=True)
    assert labels.kept_N.tolist() == [True, True, False, False, False, True, False]
    assert labels.adaptive_K == pytest.approx(found.adaptive_K.numpy(), abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 2**12), st.integers(0, 2)), min_size=1, max_size=30), st.booleans())
@examples
def test_what_a_squared_threshold_keeps(pairs: list[tuple[int, int]], squared: bool) -> None:
    distances_N = torch.tensor([distance / 64 for distance, _ in pairs])
    classes_N = torch.tensor([label for _, label in pairs])
    found = self_adaptive_thresholds(distances_N, classes_N, num_classes=3, squared=squared)
    values_N = distances_N.double() ** (2 if squared else 1)
    of_class = [values_N[classes_N == c] for c in range(3)]
    local_K = torch.stack([values.mean() if len(values) else values.sum() for values in of_class])
    limit_N = (local_K / local_K.max().clamp_min(1e-300) * values_N.mean())[classes_N]
    clear_N = (values_N - limit_N).abs() > 1e-5 * limit_N
    assert torch.equal(found.keep(distances_N, classes_N)[clear_N], (values_N < limit_N)[clear_N])


def test_classes_of_few_clips_do_not_set_the_scale() -> None:
    xs, labeled = [[0.5], [1.0], [1.5], [16.0]], [[0.0], [20.0]]
    plain = labels_of(xs, labeled, [0, 1])
    counted = labels_of(xs, labeled, [0, 1], sat_min_count=2)
    assert counted.ratio > plain.ratio
    assert counted.kept_N.sum() > plain.kept_N.sum()


@pytest.mark.parametrize("at_most", [None, 0.0, 0.5])
def test_a_fixed_threshold_keeps_up_to_and_including_it(at_most: float | None) -> None:
    distances_N = torch.tensor([0.0, 0.5, 0.5000001, 3.0])
    found = fixed_threshold(distances_N, torch.tensor([0, 1, 1, 0]), num_classes=3, at_most=at_most)
    expected = {None: [True] * 4, 0.0: [True, False, False, False], 0.5: [True, True, False, False]}[at_most]
    assert found.keep(distances_N, torch.tensor([0, 1, 1, 0])).tolist() == expected


def test_augmented_copies_in_the_prototypes() -> None:
    copies: dict[str, Any] = {
        "augmented_AD": torch.tensor([[4.0, 0.0], [4.0, 2.0], [14.0, 0.0], [14.0, 2.0]]),
        "augmented_labels_A": torch.tensor([0, 0, 1, 1]),
    }
    without, with_copies = golden_a(**copies), golden_a(**copies, augmented_prototypes=True)
    assert with_copies.centroids_KD == pytest.approx(without.centroids_KD)
    assert (with_copies.support_K - without.support_K).tolist() == [2, 2]
    sums_KD = without.prototypes_KD * without.support_K[:, None] + np.array([[8.0, 2.0], [28.0, 2.0]])
    assert with_copies.prototypes_KD == pytest.approx(sums_KD / with_copies.support_K[:, None], abs=1e-5)


def head_labels(tau: float, **changes: Any) -> LabelVersion:
    given: dict[str, Any] = {
        "version": 2,
        "epoch": 5,
        "rows_N": np.arange(4, dtype=np.int32),
        "unlabeled_ND": torch.tensor([[1.0, 1.0], [3.0, 1.0], [9.0, 1.0], [5.0, 1.0]]),
        "logits_NK": torch.tensor([[0.95, 0.05], [0.8, 0.2], [0.01, 0.99], [0.5, 0.5]]).log(),
        "labeled_MD": torch.tensor([[0.0, 1.0], [10.0, 1.0]]),
        "labels_M": torch.tensor([0, 1]),
        "num_classes": 2,
        "normalize": "none",
        "filtered_prototypes": True,
        "tau": tau,
    }
    return labels_of_head(**(given | changes))


def test_labels_of_the_head_are_kept_where_it_is_sure() -> None:
    labels = head_labels(0.9)
    assert labels.labels_N.tolist() == [0, 0, 1, 0]
    assert labels.kept_N.tolist() == [True, False, True, False]
    assert (labels.kept_N == (labels.distances_N < labels.adaptive_K[labels.labels_N])).all()
    assert labels.distances_N == pytest.approx([0.05, 0.2, 0.01, 0.5], abs=1e-6)
    assert labels.prototypes_KD == pytest.approx(np.array([[0.5, 1], [9.5, 1]]))
    assert labels.centroids_KD == pytest.approx(np.array([[9 / 4, 1], [9.5, 1]]))
    assert labels.support_K.tolist() == [2, 2]
    assert head_labels(0.0).kept_N.all()


@given(st.integers(0, 2**31), st.sampled_from([0.5, 0.7, 0.95, 1.0]))
@examples
def test_the_head_s_labels_pass_offline_as_they_do_online(seed: int, tau: float) -> None:
    logits_NK = 4 * torch.randn(4, 2, generator=torch.Generator().manual_seed(seed))
    online_N = pseudo_labels(logits_NK, tau=tau)
    labels = head_labels(tau, logits_NK=logits_NK)
    assert (
        torch.where(torch.from_numpy(labels.kept_N), torch.from_numpy(labels.labels_N), -1).tolist()
        == online_N.tolist()
    )
