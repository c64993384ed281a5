"""Drawing of a seated figure, seen from the front, whose every joint can move: the actor of the synthetic clips.

T frames, S pixels along a side, P corners. Lengths are shares of the frame's side, x to the right, y down.
Shapes are signed distance fields, so that edges are smooth and a movement of a tenth of a pixel shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

SIDES = (0, 1)  # index of an arm, a hand, a knee: the image's left and right
_OUTWARD = (-1.0, 1.0)
_SHADE = 0.3  # how much darker the rim of a shape is
_RIM = 0.018
_SKIN = ((244, 208, 180), (226, 178, 142), (198, 146, 108), (154, 104, 72), (106, 70, 50))
_HAIR = ((32, 26, 24), (70, 44, 30), (128, 84, 46), (188, 150, 90), (120, 118, 116), (96, 40, 24))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What stays the same for a person: proportions, colours, habits."""

    head: tuple[float, float]
    shoulder: float
    waist: float
    arm: float
    limb: float
    scale: float
    long_hair: bool
    long_sleeves: bool
    glasses: bool
    skin: Floats
    hair: Floats
    shirt: Floats
    trousers: Floats
    wall: Floats
    chair: Floats
    habit: int

    @classmethod
    def draw(cls, rng: Generator) -> Subject:
        """Return a person at random."""

        def colour(low: float, high: float) -> Floats:
            return np.asarray(rng.uniform(low, high, 3), np.float32)

        return cls(
            head=(rng.uniform(0.084, 0.1), rng.uniform(0.106, 0.122)),
            shoulder=rng.uniform(0.15, 0.19),
            waist=rng.uniform(0.1, 0.14),
            arm=rng.uniform(0.185, 0.21),
            limb=rng.uniform(0.034, 0.046),
            scale=rng.uniform(1.0, 1.18),
            long_hair=bool(rng.random() < 0.4),
            long_sleeves=bool(rng.random() < 0.5),
            glasses=bool(rng.random() < 0.3),
            skin=np.asarray(_SKIN[rng.integers(len(_SKIN))], np.float32) * np.float32(rng.uniform(0.94, 1.04)),
            hair=np.asarray(_HAIR[rng.integers(len(_HAIR))], np.float32),
            shirt=colour(40, 235),
            trousers=colour(25, 130),
            wall=(colour(110, 225) + np.float32(rng.uniform(110, 225))) / 2,
            chair=colour(40, 150),
            habit=int(rng.integers(4)),
        )


@dataclass(slots=True)
class Pose:
    """Where everything is in each frame; an action adds to these arrays."""

    sway_T2: Floats
    lean_T: Floats
    breath_T: Floats
    pitch_T: Floats
    yaw_T: Floats
    roll_T: Floats
    blink_T: Floats
    shoulders_T2: Floats  # how far each shoulder is raised
    hands_T22: Floats  # [frame, side, xy], in the coordinates of an unscaled body
    knees_T2: Floats  # how far each knee is raised

    @classmethod
    def rest(cls, num_frames: int, hands_22: Floats) -> Pose:
        """Return a figure that sits still with its hands at the given places."""
        lean_T, breath_T, pitch_T, yaw_T, roll_T, blink_T = np.zeros((6, num_frames), np.float32)
        sway_T2, shoulders_T2, knees_T2 = np.zeros((3, num_frames, 2), np.float32)
        hands_T22 = np.repeat(hands_22[None].astype(np.float32), num_frames, 0)
        return cls(
            sway_T2, lean_T, breath_T, pitch_T, yaw_T, roll_T, blink_T, shoulders_T2, hands_T22, knees_T2
        )  # fmt: skip


class Canvas:
    """Frames [T, S, S, 3] float32 that shapes are painted on; each touches only the pixels near it."""

    def __init__(self, frames_TSS3: Floats) -> None:
        self.frames_TSS3 = frames_TSS3
        self._size = frames_TSS3.shape[1]
        self._at_S = (np.arange(self._size, dtype=np.float32) + 0.5) / self._size

    def ellipse(
        self, centre_T2: Floats, radii: tuple[float, float], colour: Floats, angle_T: Floats | float = 0.0
    ) -> None:
        """Paint an ellipse turned by `angle_T` radians."""
        rows, cols, x, y = self._window(centre_T2[:, None], max(radii))
        dx, dy = x - _column(centre_T2[:, 0]), y - _column(centre_T2[:, 1])
        cos, sin = _column(np.cos(angle_T)), _column(np.sin(angle_T))
        u, v = dx * cos + dy * sin, dy * cos - dx * sin
        a, b = np.float32(radii[0]), np.float32(radii[1])
        k = np.sqrt((u / a) ** 2 + (v / b) ** 2)
        gradient = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2) + np.float32(1e-6)
        self._paint(rows, cols, k * (k - 1) / gradient, colour)

    def limb(self, a_T2: Floats, b_T2: Floats, radii: tuple[float, float], colour: Floats) -> None:
        """Paint a round-ended bar that goes from one thickness to another."""
        rows, cols, x, y = self._window(np.stack([a_T2, b_T2], 1), max(radii))
        dx, dy = x - _column(a_T2[:, 0]), y - _column(a_T2[:, 1])
        bar = b_T2 - a_T2
        bx, by = _column(bar[:, 0]), _column(bar[:, 1])
        h = np.clip((dx * bx + dy * by) / (bx * bx + by * by + np.float32(1e-8)), 0, 1)
        radius = np.float32(radii[0]) + np.float32(radii[1] - radii[0]) * h
        self._paint(rows, cols, np.hypot(dx - h * bx, dy - h * by) - radius, colour)

    def polygon(self, corners_TP2: Floats, colour: Floats) -> None:
        """Paint a convex polygon, its corners given clockwise as seen."""
        rows, cols, x, y = self._window(corners_TP2, 0.0)
        edges = np.roll(corners_TP2, -1, 1) - corners_TP2
        normals = np.stack([edges[..., 1], -edges[..., 0]], -1) / np.linalg.norm(edges, axis=-1, keepdims=True)
        distances = [
            (x - _column(corners_TP2[:, p, 0])) * _column(normals[:, p, 0])
            + (y - _column(corners_TP2[:, p, 1])) * _column(normals[:, p, 1])
            for p in range(corners_TP2.shape[1])
        ]
        self._paint(rows, cols, np.maximum.reduce(distances), colour)

    def _window(self, points_TP2: Floats, reach: float) -> tuple[slice, slice, Floats, Floats]:
        low = np.floor((points_TP2.min((0, 1)) - reach) * self._size - 1).astype(int).clip(0, self._size)
        high = np.ceil((points_TP2.max((0, 1)) + reach) * self._size + 1).astype(int).clip(0, self._size)
        rows, cols = slice(low[1], high[1]), slice(low[0], high[0])
        return rows, cols, self._at_S[None, None, cols], self._at_S[None, rows, None]

    def _paint(self, rows: slice, cols: slice, distance_Tyx: Floats, colour: Floats) -> None:
        cover = np.clip(0.5 - distance_Tyx * self._size, 0, 1)[..., None]
        light = 1 - _SHADE * np.exp(np.minimum(distance_Tyx, 0) / _RIM)[..., None]
        part = self.frames_TSS3[:, rows, cols]
        part += (light * colour - part) * cover


def draw_figure(canvas: Canvas, subject: Subject, pose: Pose) -> None:
    """Paint a seated person in the given pose, from the chair behind to the hands in front."""
    s, skin, shirt, trousers = subject, subject.skin, subject.shirt, subject.trousers

    def place(x: Floats | float, y: Floats | float, *, lean: float = 0.0) -> Floats:
        """Body to frame coordinates; `lean` is how far up the spine the point sits (0 hip, 1 neck)."""
        x_T = 0.5 + (x - 0.5) * s.scale + pose.sway_T2[:, 0] + lean * pose.lean_T
        y_T = 0.52 + (y - 0.5) * s.scale + pose.sway_T2[:, 1] + 0 * pose.lean_T
        return np.stack([x_T, y_T], -1).astype(np.float32)

    def size(a: float, b: float) -> tuple[float, float]:
        return a * s.scale, b * s.scale

    still = np.zeros_like(pose.lean_T)
    chair = s.chair
    back = [place(0.5 + dx, y) for dx, y in ((-0.17, 0.5), (0.17, 0.5), (0.19, 0.8), (-0.19, 0.8))]
    canvas.polygon(np.stack(back, 1) - pose.sway_T2[:, None], chair)

    shoulder_y = 0.43 - pose.breath_T
    shoulders = [
        place(0.5 + _OUTWARD[side] * (s.shoulder - 0.3 * pose.shoulders_T2[:, side]),
              shoulder_y - pose.shoulders_T2[:, side], lean=0.85)
        for side in SIDES
    ]  # fmt: skip
    hips = [place(0.5 + _OUTWARD[side] * s.waist, 0.75 + still) for side in SIDES]
    neck = place(0.5, 0.4 - pose.breath_T, lean=0.95)
    if s.long_hair:
        _head_part(canvas, s, pose, neck, (0.0, -0.06), (1.24, 1.3), s.hair, depth=-0.15)
    canvas.limb(
        neck + np.array([0, -0.06], np.float32), neck + np.array([0, 0.03], np.float32), size(0.038, 0.05), skin * 0.88
    )
    thick = s.limb * 1.15
    for side in SIDES:
        canvas.limb(neck + np.array([0, 0.045], np.float32), shoulders[side], size(0.03, thick), shirt)
    canvas.polygon(np.stack([shoulders[0], shoulders[1], hips[1], hips[0]], 1), shirt)
    canvas.limb(hips[0], hips[1], size(0.05, 0.05), trousers)

    for side in SIDES:
        knee = place(0.5 + _OUTWARD[side] * 0.165, 0.87 - pose.knees_T2[:, side])
        foot = place(0.5 + _OUTWARD[side] * 0.15, 1.15 + still)
        canvas.limb(knee, foot, size(0.062, 0.05), trousers * 0.85)
        hip = place(0.5 + _OUTWARD[side] * 0.08, 0.77 + still)
        canvas.limb(hip, knee, size(0.062, 0.07), trousers)

    _draw_head(canvas, s, pose, neck)
    for side in SIDES:
        hand = place(pose.hands_T22[:, side, 0], pose.hands_T22[:, side, 1], lean=0.3)
        elbow = _elbow(shoulders[side], hand, s.arm * s.scale, side)
        canvas.limb(shoulders[side], elbow, size(thick, s.limb), shirt * 0.93)
        wrist = hand + (elbow - hand) * 0.16
        sleeve = shirt * 0.93 if s.long_sleeves else skin
        canvas.limb(elbow, wrist, size(s.limb * 0.95, s.limb * 0.68), sleeve)
        forearm = hand - elbow
        angle_T = np.arctan2(forearm[:, 1], forearm[:, 0]).astype(np.float32)
        canvas.ellipse(hand, size(0.042, 0.031), skin * 0.97, angle_T)


def _draw_head(canvas: Canvas, s: Subject, pose: Pose, neck_T2: Floats) -> None:
    dark = np.asarray((28, 22, 22), np.float32)

    def part(at: tuple[float, float], radii: tuple[float, float], colour: Floats, depth: float) -> None:
        _head_part(canvas, s, pose, neck_T2, at, radii, colour, depth=depth)

    for side in (-1.0, 1.0):
        part((side * 0.98, 0.05), (0.16, 0.2), s.skin * 0.88, -0.1)
    part((0.0, -0.1), (1.06, 1.06), s.hair, 0.0)
    part((0.0, 0.14), (0.9, 0.88), s.skin, 0.35)
    for side in (-1.0, 1.0):
        part((side * 0.4, -0.17), (0.2, 0.05), s.hair * 0.8, 0.8)
        if s.glasses:
            part((side * 0.4, 0.05), (0.3, 0.2), dark, 0.85)
            part((side * 0.4, 0.05), (0.22, 0.14), s.skin * 1.03, 0.85)
        _head_part(canvas, s, pose, neck_T2, (side * 0.4, 0.05), (0.13, 0.09), dark, depth=0.85, squash_T=pose.blink_T)
    part((0.0, 0.3), (0.12, 0.11), s.skin * 0.8, 1.0)
    part((0.0, 0.6), (0.3, 0.065), np.asarray((150, 62, 60), np.float32), 0.8)


def _head_part(
    canvas: Canvas, s: Subject, pose: Pose, neck_T2: Floats, at: tuple[float, float], radii: tuple[float, float],
    colour: Floats, *, depth: float, squash_T: Floats | None = None,
) -> None:  # fmt: skip
    """Paint a part of the head at `at` (in head radii); one nearer to the camera (`depth`) moves more when it turns."""
    rx, ry = s.head[0] * s.scale, s.head[1] * s.scale
    x_T = (at[0] + depth * pose.yaw_T) * rx
    y_T = (at[1] + (0.3 + depth) * pose.pitch_T) * ry - 1.05 * ry
    cos, sin = np.cos(pose.roll_T), np.sin(pose.roll_T)
    offset_T2 = np.stack([x_T * cos - y_T * sin, x_T * sin + y_T * cos], -1)
    centre_T2 = (neck_T2 + offset_T2).astype(np.float32)
    if squash_T is not None and squash_T.any():
        colour = colour + (s.skin - colour) * squash_T[:, None, None, None]
    canvas.ellipse(centre_T2, (radii[0] * rx, radii[1] * ry), colour, pose.roll_T)


def _elbow(shoulder_T2: Floats, hand_T2: Floats, arm: float, side: int) -> Floats:
    """The elbow of two equally long bones; a folded arm looks shorter because it points at the camera."""
    reach_T2 = hand_T2 - shoulder_T2
    reach_T = np.linalg.norm(reach_T2, axis=-1, keepdims=True) + 1e-6
    bone = arm * (0.7 + 0.3 * np.clip(reach_T / (2 * arm), 0, 1))
    height = np.sqrt(np.maximum(bone**2 - (reach_T / 2) ** 2, 1e-6))
    across = np.stack([-reach_T2[:, 1], reach_T2[:, 0]], -1) / reach_T
    return np.asarray(shoulder_T2 + reach_T2 / 2 - _OUTWARD[side] * across * height, np.float32)


def _column(values: Sequence[float] | Floats | float) -> Floats:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)
