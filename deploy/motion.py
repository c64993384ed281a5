"""The micro-actions of the synthetic clips, and the movements around them that mean nothing.

T frames. Times are shares of the clip; lengths are shares of the frame's side, angles radians.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from aplt.deploy.figure import SIDES, Floats, Pose, Subject


@dataclass(frozen=True, slots=True)
class Beat:
    """When an action happens: `hold_T` rises to 1 and falls again, `wave_T` goes to and fro while it lasts."""

    hold_T: Floats
    wave_T: Floats

    @classmethod
    def draw(cls, rng: Generator, time_T: Floats) -> Beat:
        """Return a beat at random: 60 to 90 % of the clip, with one or two turns."""
        length = rng.uniform(0.6, 0.9)
        start = rng.uniform(0.02, 0.98 - length)
        since_T = (time_T - start) / length
        hold_T = _smooth(since_T / 0.3) * _smooth((1 - since_T) / 0.3)
        turns = rng.uniform(1.2, 2.2)
        wave_T = np.sin(2 * np.pi * turns * np.clip(since_T, 0, 1)) * _smooth(since_T * 8) * _smooth((1 - since_T) * 8)
        return cls(hold_T, wave_T * rng.choice((-1, 1)))


def rest(person: Subject, rng: Generator, num_frames: int) -> Pose:
    """Return a person who sits, mostly in the posture that is a habit."""
    posture = person.habit if rng.random() < 0.8 else int(rng.integers(len(_POSTURES)))
    hands_22 = np.asarray(_POSTURES[posture], np.float32) + rng.normal(0, 0.012, (2, 2))
    if rng.random() < 0.5:
        hands_22 = hands_22[::-1] * np.array([-1, 1]) + np.array([1, 0])
    return Pose.rest(num_frames, hands_22)


def fidget(pose: Pose, rng: Generator, time_T: Floats) -> None:
    """Add what means nothing: sway, breath, blinking, a posture of its own, and slow shifts that do not return."""

    def sway(amount: float) -> Floats:
        phase, turns = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8)
        return np.asarray(amount * np.sin(2 * np.pi * turns * time_T + phase), np.float32)

    def shift(amount: float) -> Floats:
        start, length = rng.uniform(-0.2, 0.7), rng.uniform(0.3, 0.8)
        return np.asarray(rng.normal(0, amount) * _smooth((time_T - start) / length), np.float32)

    pose.sway_T2 += rng.normal(0, 0.018, 2) + np.stack([sway(0.004) + shift(0.006), sway(0.003) + shift(0.004)], -1)
    pose.lean_T += rng.normal(0, 0.012) + sway(0.006) + shift(0.008)
    pose.breath_T += sway(0.004)
    pose.pitch_T += rng.normal(0, 0.05) + sway(0.02) + shift(0.05)
    pose.yaw_T += rng.normal(0, 0.08) + sway(0.02) + shift(0.06)
    pose.roll_T += rng.normal(0, 0.02) + sway(0.01) + shift(0.02)
    pose.shoulders_T2 += rng.normal(0, 0.006, 2) + shift(0.006)[:, None]
    for side in SIDES:
        pose.hands_T22[:, side] += np.stack([shift(0.014), shift(0.014)], -1)
        pose.knees_T2[:, side] += rng.normal(0, 0.005) + shift(0.005)
    if rng.random() < 0.5:
        pose.blink_T[rng.integers(len(time_T))] = 1


def _nod(pose: Pose, rng: Generator, beat: Beat) -> None:
    pose.pitch_T += rng.uniform(0.35, 0.6) * np.abs(beat.wave_T)


def _shake_head(pose: Pose, rng: Generator, beat: Beat) -> None:
    pose.yaw_T += rng.uniform(0.5, 0.85) * beat.wave_T


def _tilt_head(pose: Pose, rng: Generator, beat: Beat) -> None:
    pose.roll_T += rng.uniform(0.2, 0.36) * rng.choice((-1, 1)) * beat.hold_T


def _shrug(pose: Pose, rng: Generator, beat: Beat) -> None:
    pose.shoulders_T2 += rng.uniform(0.04, 0.07) * beat.hold_T[:, None]


def _touch_face(pose: Pose, rng: Generator, beat: Beat) -> None:
    _reach(pose, rng, beat, at=(0.455, 0.36), share=(0.6, 1.0))


def _touch_arm(pose: Pose, rng: Generator, beat: Beat) -> None:
    _reach(pose, rng, beat, at=(0.6, 0.54), share=(0.75, 1.0))


def _rub_hands(pose: Pose, rng: Generator, beat: Beat) -> None:
    slide_T = rng.uniform(0.02, 0.04) * beat.wave_T
    meet = (0.5, rng.uniform(0.66, 0.74))
    share = rng.uniform(0.5, 1.0)
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        at_T2 = np.stack([meet[0] + sign * 0.03 + 0 * slide_T, meet[1] + sign * slide_T], -1)
        pose.hands_T22[:, side] += share * beat.hold_T[:, None] * (at_T2 - pose.hands_T22[:, side])
        pose.hands_T22[:, side, 1] += sign * slide_T


def _tap_leg(pose: Pose, rng: Generator, beat: Beat) -> None:
    pose.knees_T2[:, rng.integers(2)] += rng.uniform(0.045, 0.075) * np.abs(beat.wave_T)


def _reach(pose: Pose, rng: Generator, beat: Beat, *, at: tuple[float, float], share: tuple[float, float]) -> None:
    """One hand goes part of the way to `at` (for the image's left hand) and back."""
    side = int(rng.integers(2))
    x = at[0] if side == 0 else 1 - at[0]
    target = np.array([x, at[1]]) + rng.normal(0, 0.015, 2)
    way_T1 = (rng.uniform(*share) * beat.hold_T)[:, None]
    pose.hands_T22[:, side] += way_T1 * (target - pose.hands_T22[:, side])


ACTIONS: dict[str, Callable[[Pose, Generator, Beat], None]] = {  # the most frequent first
    "nod": _nod,
    "touch_face": _touch_face,
    "shake_head": _shake_head,
    "tap_leg": _tap_leg,
    "shrug": _shrug,
    "rub_hands": _rub_hands,
    "tilt_head": _tilt_head,
    "touch_arm": _touch_arm,
}

_POSTURES = (  # where the hands rest: on the thighs, in the lap, crossed low, one on the other arm, one at the chin
    ((0.37, 0.79), (0.63, 0.79)),
    ((0.46, 0.76), (0.54, 0.77)),
    ((0.55, 0.7), (0.46, 0.71)),
    ((0.57, 0.6), (0.6, 0.77)),
    ((0.455, 0.37), (0.6, 0.75)),
)


def _smooth(x: Floats) -> Floats:
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)
