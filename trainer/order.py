"""Which clips make up which step: a pure function of seed and epoch, so that nothing about it needs saving.

Letters: M labelled clips, N unlabelled clips, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class StepOrder:
    """The clips of one step, as positions in the lists of labelled and unlabelled clips.

    `done` counts the run's steps before this one, over all epochs.
    `labeled_visit_B` counts how often each labelled clip was seen before: labelled clips come up many times an epoch,
    and every visit draws its own augmentation. An unlabelled clip comes up once an epoch.
    """

    done: int
    labeled_B: IntArray
    labeled_visit_B: IntArray
    unlabeled_B: IntArray


def steps_per_epoch(num_unlabeled: int, *, batch_size: int, mu: int) -> int:
    """Return the steps of an epoch: one pass over the unlabelled clips, the last batch filled up."""
    return max(1, -(-num_unlabeled // (batch_size * mu)))


def epoch_order(
    epoch: int, *, seed: int, num_labeled: int, num_unlabeled: int, batch_size: int, mu: int
) -> Iterator[StepOrder]:
    """Yield the steps of `epoch` (counted from 1). Labelled clips go round in freshly shuffled cycles across epochs."""
    steps = steps_per_epoch(num_unlabeled, batch_size=batch_size, mu=mu)
    unlabeled = _shuffled(num_unlabeled, seed, 1, epoch)
    if num_unlabeled:
        unlabeled = np.resize(unlabeled, steps * batch_size * mu)  # fills the last batch from the start
    for step in range(steps):
        done = (epoch - 1) * steps + step
        first = done * batch_size
        count_B = np.arange(first, first + batch_size)
        visit_B = count_B // num_labeled
        cycles = {int(visit): _shuffled(num_labeled, seed, 0, int(visit)) for visit in np.unique(visit_B)}
        labeled_B = np.array(
            [cycles[int(visit)][count % num_labeled] for visit, count in zip(visit_B, count_B, strict=True)]
        )
        yield StepOrder(
            done=done,
            labeled_B=labeled_B,
            labeled_visit_B=visit_B,
            unlabeled_B=unlabeled[step * batch_size * mu : (step + 1) * batch_size * mu],
        )


def _shuffled(num: int, seed: int, stream: int, round_number: int) -> IntArray:
    return np.random.default_rng([seed, stream, round_number]).permutation(num)
