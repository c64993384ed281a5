"""Clustering of nothing, and what it refuses. Letters: N unlabelled, M labelled samples, K classes, D features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aplt.labeler.clustering import Clustering, kmeans, semi_supervised_kmeans

INPUTS: dict[str, Any] = {
    "unlabeled_ND": torch.tensor([[1.0], [4.8], [9.0]]),
    "labeled_MD": torch.tensor([[0.0], [7.0], [10.0]]),
    "labels_M": torch.tensor([0, 0, 1]),
    "num_classes": 2,
}


def solve(**changes: Any) -> Clustering:
    return semi_supervised_kmeans(**(INPUTS | changes))


@pytest.mark.parametrize("num_classes", [1, 3])
def test_no_unlabelled_samples(num_classes: int) -> None:
    labeled_MD = torch.arange(2.0 * num_classes).reshape(num_classes, 2)
    found = semi_supervised_kmeans(torch.zeros(0, 2), labeled_MD, torch.arange(num_classes), num_classes=num_classes)
    assert torch.equal(found.centroids_KD, labeled_MD)
    assert found.assignments_N.shape == found.distances_N.shape == (0,)
    assert found.converged


def test_plain_kmeans_leaves_an_empty_centre_where_it_is() -> None:
    found = kmeans(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [50.0]]))
    assert found.centroids_KD.tolist() == [[1.0], [50.0]]
    assert found.assignments_N.tolist() == [0, 0]
    assert found.converged
    empty = kmeans(torch.zeros(0, 1), torch.tensor([[1.0]]))
    assert empty.centroids_KD.tolist() == [[1.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["unlabeled_ND", "labeled_MD"])
def test_features_must_be_finite(bad: float, where: str) -> None:
    features = {name: value.clone() for name, value in INPUTS.items() if name in ("unlabeled_ND", "labeled_MD")}
    features[where][1, 0] = bad
    with pytest.raises(ValueError, match=rf"{where} must be finite, but 1 of .* first is row 1"):
        solve(**features)
    with pytest.raises(ValueError, match="must be finite"):
        kmeans(features["unlabeled_ND"], features["labeled_MD"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 4}, r"classes \[2, 3\] of 4 have none"),
        ({"labels_M": torch.tensor([0, 1, 2])}, r"must lie in 0\.\.1 .* got 0\.\.2"),
        ({"labels_M": torch.tensor([0, 1, -1])}, r"must lie in 0\.\.1 .* got -1\.\.1"),
        ({"labels_M": torch.tensor([0, 1])}, "labels_M must be 3 integers"),
        ({"labels_M": torch.tensor([0.0, 0.0, 1.0])}, "labels_M must be 3 integers"),
        ({"labeled_MD": torch.zeros(3, 2)}, "must have 1 features"),
        ({"unlabeled_ND": torch.zeros(3)}, "must be a floating-point matrix"),
        ({"unlabeled_ND": torch.zeros(3, 1, dtype=torch.int64)}, "must be a floating-point matrix"),
    ],
)
def test_misuse_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(**change)


@pytest.mark.parametrize(("max_iterations", "tolerance"), [(0, 1e-4), (5, -1.0), (5, float("nan"))])
def test_settings_are_checked(max_iterations: int, tolerance: float) -> None:
    with pytest.raises(ValueError, match="max_iterations must be at least 1"):
        solve(max_iterations=max_iterations, tolerance=tolerance)


def test_plain_kmeans_needs_a_centre() -> None:
    with pytest.raises(ValueError, match="at least one centre"):
        kmeans(torch.zeros(3, 2), torch.zeros(0, 2))
