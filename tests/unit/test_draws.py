from __future__ import annotations

import numpy as np
import pytest

from aplt.common.draws import centre_frames, sample_frames, uniform

ROWS = np.arange(20_000, dtype=np.int32)
PINNED = [[0.5278058574909219, 0.8449117638290216], [0.9296809978970352, 0.24421583735254604]]


def test_draws_are_pinned() -> None:
    # Splitmix64 of (view, seed, epoch, row): another value would silently change every run.
    draws = uniform(np.array([0, 7], dtype=np.int32), 2, seed=3, epoch=5, view="weak")
    np.testing.assert_array_equal(draws, PINNED)


def test_a_row_draws_the_same_in_any_company() -> None:
    together = uniform(ROWS[:50], 3, seed=1, epoch=2, view="v")
    backwards = uniform(ROWS[:50][::-1], 3, seed=1, epoch=2, view="v")
    np.testing.assert_array_equal(together[::-1], backwards)
    np.testing.assert_array_equal(together[9:10], uniform(ROWS[9:10].astype(np.int64), 3, seed=1, epoch=2, view="v"))
    np.testing.assert_array_equal(together, uniform(ROWS[:50], 8, seed=1, epoch=2, view="v")[:, :3])


def test_epochs_can_be_given_per_row() -> None:
    mixed = uniform(ROWS[:3], 2, seed=0, epoch=np.array([4, 5, 4]), view="v")
    np.testing.assert_array_equal(mixed[[0, 2]], uniform(ROWS[[0, 2]], 2, seed=0, epoch=4, view="v"))
    np.testing.assert_array_equal(mixed[[1]], uniform(ROWS[[1]], 2, seed=0, epoch=5, view="v"))


@pytest.mark.parametrize("other", [{"seed": 1}, {"seed": -1}, {"seed": 2**80 + 1}, {"epoch": 1}, {"view": "w"}])
def test_seed_epoch_and_view_change_every_draw(other: dict[str, int]) -> None:
    base = {"seed": 0, "epoch": 0, "view": "v"}
    first = uniform(ROWS, 2, **base)  # type: ignore[arg-type]
    second = uniform(ROWS, 2, **{**base, **other})  # type: ignore[arg-type]
    assert not (first == second).any()
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 4 / np.sqrt(len(ROWS))


def test_seed_epoch_and_row_are_not_interchangeable() -> None:
    rows = np.array([0, 1, 2], dtype=np.int32)
    draws = [
        uniform(rows[[r]], 1, seed=s, epoch=e, view="v").item() for r in range(3) for s in range(3) for e in range(3)
    ]
    assert len(set(draws)) == 27


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform(ROWS, 4, seed=0, epoch=1, view="strong")
    assert draws.min() >= 0
    assert draws.max() < 1
    # Chi-square over 20 bins has mean 19 and standard deviation 6.2; each of these is a fixed number, not a gamble.
    for column in draws.T:
        counts = np.histogram(column, bins=20, range=(0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 45
    bound = 4 / np.sqrt(len(ROWS))
    correlation = np.corrcoef(draws.T) - np.eye(4)
    assert np.abs(correlation).max() < bound
    following = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]  # of neighbouring rows
    assert abs(following) < bound
    epochs = np.stack([uniform(ROWS, 1, seed=0, epoch=epoch, view="strong")[:, 0] for epoch in range(1, 5)])
    assert np.abs(np.corrcoef(epochs) - np.eye(4)).max() < bound


def test_sampled_frames_stay_in_their_segments_and_cover_them() -> None:
    frames = sample_frames(ROWS, num_segments=8, frames_per_segment=3, seed=0, epoch=1, view="v")
    assert frames.shape == (len(ROWS), 8)
    assert frames.dtype == np.int64
    np.testing.assert_array_equal(frames // 3, np.tile(np.arange(8), (len(ROWS), 1)))
    shares = np.stack([(frames % 3 == k).mean(0) for k in range(3)])
    assert np.abs(shares - 1 / 3).max() < 0.015


def test_centre_frames() -> None:
    expected = [[0, 1, 2]] * 2, [[1, 3, 5]] * 2, [[1, 4, 7]] * 2
    for frames_per_segment, frames in enumerate(expected, start=1):
        np.testing.assert_array_equal(centre_frames(2, num_segments=3, frames_per_segment=frames_per_segment), frames)
