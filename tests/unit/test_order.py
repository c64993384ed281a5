from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aplt.trainer.order import epoch_order, steps_per_epoch


@given(
    num_labeled=st.integers(1, 40),
    num_unlabeled=st.integers(1, 60),
    batch_size=st.integers(1, 12),
    mu=st.integers(1, 3),
    epoch=st.integers(1, 5),
)
def test_an_epoch_shows_every_unlabelled_clip(
    num_labeled: int, num_unlabeled: int, batch_size: int, mu: int, epoch: int
) -> None:
    order = list(
        epoch_order(epoch, seed=3, num_labeled=num_labeled, num_unlabeled=num_unlabeled, batch_size=batch_size, mu=mu)
    )
    assert len(order) == steps_per_epoch(num_unlabeled, batch_size=batch_size, mu=mu)
    shown = np.concatenate([step.unlabeled_B for step in order])
    assert set(shown) == set(range(num_unlabeled))
    assert {len(step.unlabeled_B) for step in order} == {batch_size * mu}
    assert {len(step.labeled_B) for step in order} == {batch_size}


def test_labelled_clips_go_round_in_full_cycles_across_epochs() -> None:
    steps = [
        step
        for epoch in (1, 2, 3)
        for step in epoch_order(epoch, seed=0, num_labeled=7, num_unlabeled=20, batch_size=4, mu=1)
    ]
    clips = np.concatenate([step.labeled_B for step in steps])
    visits = np.concatenate([step.labeled_visit_B for step in steps])
    for visit in range(len(clips) // 7):
        assert sorted(clips[visits == visit]) == list(range(7))


def test_epochs_and_seeds_differ_and_repeat_exactly() -> None:
    def shown(epoch: int, seed: int) -> list[int]:
        order = epoch_order(epoch, seed=seed, num_labeled=5, num_unlabeled=30, batch_size=5, mu=2)
        return [int(clip) for step in order for clip in (*step.unlabeled_B, *step.labeled_B)]

    assert shown(2, 0) == shown(2, 0)
    assert shown(2, 0) != shown(3, 0)
    assert shown(2, 0) != shown(2, 1)


def test_without_unlabelled_clips_there_is_one_step() -> None:
    (step,) = epoch_order(1, seed=0, num_labeled=3, num_unlabeled=0, batch_size=4, mu=1)
    assert len(step.unlabeled_B) == 0
    assert len(step.labeled_B) == 4
