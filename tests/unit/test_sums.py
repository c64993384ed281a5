"""Sums per class. Letters: N samples, K classes, D features."""

from __future__ import annotations

import math

import pytest
import torch

from aplt.labeler.sums import ClassSums, chunks, largest

CPU = torch.device("cpu")


def test_hand_worked() -> None:
    sums = ClassSums(3, 2, max_rows=4, max_abs=8.0, device=CPU)
    sums.add(torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 8.0]]), torch.tensor([0, 0, 1]))
    assert sums.means().tolist() == [[2.0, 3.0], [8.0, 8.0], [0.0, 0.0]]
    sums.add(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), sign=-1)
    assert sums.means(torch.full((3, 2), 7.0).double()).tolist() == [[3.0, 4.0], [8.0, 8.0], [7.0, 7.0]]
    assert sums.counts_K.tolist() == [1, 1, 0]


def test_order_and_detours_change_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    features_ND = torch.randn(5000, 3, generator=generator) * 10 ** torch.empty(5000, 1).uniform_(
        -6, 3, generator=generator
    )
    classes_N = torch.randint(4, (5000,), generator=generator)
    max_abs = largest(features_ND, "features_ND")
    straight = ClassSums(4, 3, max_rows=5000, max_abs=max_abs, device=CPU)
    straight.add(features_ND, classes_N)
    detour = ClassSums(4, 3, max_rows=5000, max_abs=max_abs, device=CPU)
    for part in torch.split(torch.randperm(5000, generator=generator), 700):
        detour.add(features_ND[part], (classes_N[part] + 1) % 4)
        detour.add(features_ND[part], (classes_N[part] + 1) % 4, sign=-1)
        detour.add(features_ND[part], classes_N[part])
    assert torch.equal(straight.means(), detour.means())
    for c in range(4):
        for d in range(3):
            column = features_ND[classes_N == c, d].double().tolist()
            assert float(straight.means()[c, d]) == pytest.approx(math.fsum(column) / len(column), abs=1e-11 * max_abs)


@pytest.mark.parametrize("size", [0.0, 1e-38, 1.0, 3e38])
def test_any_size_of_features(size: float) -> None:
    sums = ClassSums(1, 1, max_rows=3, max_abs=size, device=CPU)
    sums.add(torch.full((3, 1), size), torch.zeros(3, dtype=torch.int64))
    assert float(sums.means()) == float(torch.tensor(size))


def test_chunks_cover_every_row_once() -> None:
    features_ND = torch.zeros(10_001, 700)
    rows = [i for part in chunks(features_ND) for i in range(10_001)[part]]
    assert rows == list(range(10_001))
    assert max(len(features_ND[part]) for part in chunks(features_ND, width=2**20)) == 1
    assert list(chunks(torch.zeros(0, 3))) == []
