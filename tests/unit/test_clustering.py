"""Semi-supervised k-means. Letters: N unlabelled, M labelled samples, K classes, D features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from aplt.labeler import sums
from aplt.labeler.clustering import Clustering, kmeans, semi_supervised_kmeans
from aplt.labeler.prototypes import build_prototypes
from aplt.labeler.thresholds import self_adaptive_thresholds

examples = settings(max_examples=40, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Problem:
    unlabeled_ND: Tensor
    labeled_MD: Tensor
    labels_M: Tensor
    num_classes: int

    def solve(self, *, tolerance: float = 0.0, max_iterations: int = 100) -> Clustering:
        return semi_supervised_kmeans(
            self.unlabeled_ND,
            self.labeled_MD,
            self.labels_M,
            num_classes=self.num_classes,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )

    def keep(self, found: Clustering) -> Tensor:
        thresholds = self_adaptive_thresholds(found.distances_N, found.assignments_N, num_classes=self.num_classes)
        return thresholds.keep(found.distances_N, found.assignments_N)

    def map(self, move: Callable[[Tensor], Tensor]) -> Problem:
        return replace(self, unlabeled_ND=move(self.unlabeled_ND), labeled_MD=move(self.labeled_MD))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Overlapping clusters on the grid of 1/256, where float32 can scale and translate without rounding."""
    num_classes, num_features = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    num_unlabeled, extra = draw(st.integers(0, 60)), draw(st.integers(0, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    centers_KD = 2 * torch.randn(num_classes, num_features, generator=generator)
    labels_M = torch.cat([torch.arange(num_classes), torch.randint(num_classes, (extra,), generator=generator)])
    truth_N = torch.randint(num_classes, (num_unlabeled,), generator=generator)

    def around(classes_N: Tensor) -> Tensor:
        noise_ND = torch.randn(len(classes_N), num_features, generator=generator)
        return ((centers_KD[classes_N] + noise_ND) * 256).round() / 256

    return Problem(around(truth_N), around(labels_M), labels_M, num_classes)


def reference(problem: Problem, *, iterations: int = 100) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return centres and assignments by the definition, in float64, with all differences."""
    x, anchors = problem.unlabeled_ND.double().numpy(), problem.labeled_MD.double().numpy()
    labels = problem.labels_M.numpy()
    centres = np.stack([anchors[labels == c].mean(axis=0) for c in range(problem.num_classes)])

    def nearest() -> NDArray[np.int64]:
        nearest_N: NDArray[np.int64] = ((x[:, None] - centres[None]) ** 2).sum(axis=-1).argmin(axis=1)
        return nearest_N

    for _ in range(iterations):
        assigned, previous = nearest(), centres
        centres = np.stack(
            [np.concatenate([anchors[labels == c], x[assigned == c]]).mean(axis=0) for c in range(problem.num_classes)]
        )
        if np.abs(centres - previous).max() < 1e-12:
            break
    return centres, nearest()


def same(one: Clustering, other: Clustering) -> None:
    for name in ("centroids_KD", "assignments_N", "distances_N"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert (one.num_iterations, one.converged) == (other.num_iterations, other.converged)


ANCHORED = Problem(  # worked by hand: the labelled 7 lies nearer to the centre of class 1
    unlabeled_ND=torch.tensor([[1.0], [4.8], [6.9], [7.1], [9.0], [9.5], [10.0]]),
    labeled_MD=torch.tensor([[0.0], [7.0], [10.0]]),
    labels_M=torch.tensor([0, 0, 1]),
    num_classes=2,
)


def test_hand_worked_labelled_samples_hold_their_class() -> None:
    found = ANCHORED.solve()
    assert found.assignments_N.tolist() == [0, 0, 1, 1, 1, 1, 1]
    torch.testing.assert_close(found.centroids_KD, torch.tensor([[12.8 / 4], [52.5 / 6]]))
    torch.testing.assert_close(found.distances_N, torch.tensor([2.2, 1.6, 1.85, 1.65, 0.25, 0.75, 1.25]))
    assert (found.num_iterations, found.converged) == (2, True)  # the second iteration finds nothing to change
    start_KD = build_prototypes(ANCHORED.labeled_MD, ANCHORED.labels_M, num_classes=2).vectors_KD
    moved = kmeans(torch.cat([ANCHORED.labeled_MD, ANCHORED.unlabeled_ND]), start_KD, tolerance=0)
    assert moved.assignments_N[:3].tolist() == [0, 1, 1]


@given(problems())
@examples
def test_agrees_with_the_definition(problem: Problem) -> None:
    found = problem.solve()
    centres, assigned = reference(problem)
    assert found.converged
    assert found.assignments_N.tolist() == assigned.tolist()
    np.testing.assert_allclose(found.centroids_KD.numpy(), centres, rtol=1e-6, atol=1e-6)
    exact = np.linalg.norm(problem.unlabeled_ND.double().numpy() - centres[assigned], axis=1)
    np.testing.assert_allclose(found.distances_N.numpy(), exact, rtol=1e-6, atol=1e-7)


@given(problems())
@examples
def test_centres_are_means_of_anchors_and_members(problem: Problem) -> None:
    """Anchors never move class: the mean of class c always holds exactly the samples labelled c."""
    found = problem.solve()
    both_ND = torch.cat([problem.labeled_MD, problem.unlabeled_ND])
    classes_N = torch.cat([problem.labels_M, found.assignments_N])
    means = build_prototypes(both_ND, classes_N, num_classes=problem.num_classes)
    assert torch.equal(found.centroids_KD, means.vectors_KD)


@given(problems(), st.integers(0, 2**31))
@examples
def test_order_does_not_matter(problem: Problem, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    order_N = torch.randperm(len(problem.unlabeled_ND), generator=generator)
    order_M = torch.randperm(len(problem.labels_M), generator=generator)
    shuffled = Problem(
        problem.unlabeled_ND[order_N], problem.labeled_MD[order_M], problem.labels_M[order_M], problem.num_classes
    )
    first, second = problem.solve(), shuffled.solve()
    same(replace(first, assignments_N=first.assignments_N[order_N], distances_N=first.distances_N[order_N]), second)
    assert torch.equal(problem.keep(first)[order_N], shuffled.keep(second))


@given(problems(), st.integers(-100, 100))
@examples
def test_scale_does_not_matter(problem: Problem, exponent: int) -> None:
    scaled = problem.map(lambda x: x * 2.0**exponent)
    first, second = problem.solve(tolerance=1e-4), scaled.solve(tolerance=1e-4)
    assert torch.equal(first.assignments_N, second.assignments_N)
    assert torch.equal(first.distances_N * 2.0**exponent, second.distances_N)
    assert torch.equal(problem.keep(first), scaled.keep(second))


@given(problems(), st.integers(-2000, 2000))
@examples
def test_origin_does_not_matter(problem: Problem, offset: int) -> None:
    moved = problem.map(lambda x: x + offset)
    first, second = problem.solve(), moved.solve()
    assert torch.equal(first.assignments_N, second.assignments_N)
    torch.testing.assert_close(first.distances_N, second.distances_N, rtol=1e-6, atol=1e-6)
    assert torch.equal(problem.keep(first), moved.keep(second))


@given(problems(), st.integers(0, 2**31))
@examples
def test_axes_do_not_matter(problem: Problem, seed: int) -> None:
    num_features = problem.labeled_MD.shape[1]
    square = torch.randn(num_features, num_features, generator=torch.Generator().manual_seed(seed)).double()
    rotation_DD = torch.linalg.qr(square).Q
    turned = problem.map(lambda x: x.double() @ rotation_DD)
    first, second = problem.map(lambda x: x.double()).solve(), turned.solve()
    assert torch.equal(first.assignments_N, second.assignments_N)
    torch.testing.assert_close(first.distances_N, second.distances_N)


@given(problems(), st.integers(1, 40))
@examples
def test_chunks_do_not_matter(problem: Problem, elements: int) -> None:
    whole = problem.solve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sums.CHUNK_ELEMENTS, "cpu", elements)
        same(whole, problem.solve())


@pytest.mark.parametrize("offset", [0.0, 100.0, 3000.0])
def test_large_features_agree_with_the_definition(offset: float) -> None:
    """Rounding of the matrix product decides nothing, not even far from the origin or between close centres."""
    generator = torch.Generator().manual_seed(5)
    labels_M = torch.arange(30) % 10
    problem = Problem(
        torch.randn(3000, 96, generator=generator) + offset,
        0.05 * torch.randn(30, 96, generator=generator) + offset,
        labels_M,
        10,
    )
    found = problem.solve(max_iterations=6)
    centres, assigned = reference(problem, iterations=6)
    assert not found.converged
    assert found.num_iterations == 6
    assert found.assignments_N.tolist() == assigned.tolist()
    exact = np.linalg.norm(problem.unlabeled_ND.double().numpy() - centres[assigned], axis=1)
    np.testing.assert_allclose(found.distances_N.numpy(), exact, rtol=1e-6)


def test_samples_far_from_close_centres_agree_with_the_definition() -> None:
    """Products of long features with short differences of centres cancel almost completely."""
    generator = torch.Generator().manual_seed(7)
    half = 0.05 * torch.randn(10, 48, generator=generator)
    labeled_MD = torch.cat([half, -half], dim=1)
    problem = Problem(torch.randn(4000, 96, generator=generator) + 3000, labeled_MD, torch.arange(10), 10)
    found = problem.solve(max_iterations=1)
    centres, assigned = reference(problem, iterations=1)
    np.testing.assert_allclose(found.centroids_KD.numpy(), centres, rtol=0, atol=2.5e-4)
    assert found.assignments_N.tolist() == assigned.tolist()


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_samples_that_are_not_looked_up_again_agree_with_the_definition(spread: float) -> None:
    """Most samples keep their lead while the centres creep to the end."""
    generator = torch.Generator().manual_seed(11)
    centers_KD, labels_M = torch.randn(8, 3, generator=generator), torch.arange(8)
    around_ND = centers_KD.repeat(500, 1) + spread * torch.randn(4000, 3, generator=generator)
    labeled_MD = centers_KD + spread * torch.randn(8, 3, generator=generator)
    problem = Problem(around_ND, labeled_MD, labels_M, 8)
    found = problem.solve()
    centres, assigned = reference(problem)
    assert found.num_iterations > 10
    assert found.assignments_N.tolist() == assigned.tolist()
    np.testing.assert_allclose(found.centroids_KD.numpy(), centres, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_matmul_precision_and_autocast_do_not_matter(precision: str) -> None:
    generator = torch.Generator().manual_seed(2)
    problem = Problem(
        torch.randn(500, 64, generator=generator), torch.randn(8, 64, generator=generator), torch.arange(8), 8
    )
    wanted, before = problem.solve(), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            same(wanted, problem.solve())
    finally:
        torch.set_float32_matmul_precision(before)


def test_ties_go_to_the_lowest_class() -> None:
    between = Problem(torch.tensor([[5.0, 1.0]]), torch.tensor([[10.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]), 2)
    assert between.solve(max_iterations=1).assignments_N.tolist() == [0]
    equal_KD = torch.full((4, 3), 0.1)
    found = Problem(torch.full((7, 3), 0.3), equal_KD, torch.tensor([3, 2, 1, 0]), 4).solve(max_iterations=1)
    assert kmeans(torch.full((7, 3), 0.3), equal_KD, max_iterations=1).assignments_N.tolist() == [0] * 7
    assert found.assignments_N.tolist() == [0] * 7


def test_one_sample_of_each_kind() -> None:
    found = Problem(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([0]), 1).solve()
    assert found.centroids_KD.tolist() == [[1.5, 2.0]]
    assert found.distances_N.tolist() == [2.5]


def test_a_class_may_lose_all_unlabelled_samples() -> None:
    found = Problem(torch.tensor([[9.0], [11.0]]), torch.tensor([[0.0], [10.0]]), torch.tensor([0, 1]), 2).solve()
    assert found.assignments_N.tolist() == [1, 1]
    assert found.centroids_KD.tolist() == [[0.0], [10.0]]


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_extreme_sizes(size: float) -> None:
    found = ANCHORED.map(lambda x: x * size).solve(tolerance=1e-4)
    assert found.assignments_N.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert found.distances_N.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    found = ANCHORED.map(lambda x: x.to(dtype)).solve()
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert (found.centroids_KD.dtype, found.distances_N.dtype, found.assignments_N.dtype) == (
        wanted,
        wanted,
        torch.int64,
    )
    labels_M = ANCHORED.labels_M.to(torch.int16)
    assert replace(ANCHORED, labels_M=labels_M).solve().assignments_N.tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_inputs_stay_as_they_are() -> None:
    for dtype in (torch.float32, torch.float64):
        given = ANCHORED.map(lambda x, dtype=dtype: x.to(dtype, copy=True))
        found = given.solve()
        distances_N = found.distances_N.clone()
        given.keep(found)
        assert torch.equal(given.unlabeled_ND, ANCHORED.unlabeled_ND.to(dtype))
        assert torch.equal(given.labeled_MD, ANCHORED.labeled_MD.to(dtype))
        assert torch.equal(found.distances_N, distances_N)
    transposed = ANCHORED.map(lambda x: torch.cat([x, x], dim=1).T.contiguous().T)
    assert transposed.solve().assignments_N.tolist() == [0, 0, 1, 1, 1, 1, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    problem = Problem(
        torch.randn(50_000, 128, generator=generator), torch.randn(24, 128, generator=generator), torch.arange(24), 24
    )
    wanted, found = problem.solve(max_iterations=20), problem.map(lambda x: x.cuda()).solve(max_iterations=20)
    assert torch.equal(wanted.assignments_N, found.assignments_N.cpu())
    assert torch.equal(wanted.centroids_KD, found.centroids_KD.cpu())
    torch.testing.assert_close(wanted.distances_N, found.distances_N.cpu(), rtol=1e-6, atol=0)
