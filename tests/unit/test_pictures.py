"""What the pictures of a report are built from."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from aplt.common.drawing import HEIGHT, WIDTH, shorten, strip_of
from aplt.labeler.pictures import spread
from aplt.labeler.timeline import Clock, Span, duration, timeline_picture


def test_strip_holds_equally_spaced_frames_with_gaps() -> None:
    frames = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    strip = strip_of(frames, num_frames=4)
    assert strip.shape == (4, 4 * 4 + 3, 3)
    assert strip[0, ::5, 0].tolist() == [0, 5, 10, 15]
    assert strip[0, 4::5, 0].tolist() == [255, 255, 255]


def test_spread_keeps_order_distance_and_bounds() -> None:
    assert spread([0.2, 0.5, 0.9], gap=0.1, low=0, high=1) == pytest.approx([0.2, 0.5, 0.9])
    assert spread([0.5, 0.5], gap=0.1, low=0, high=1) == pytest.approx([0.45, 0.55])
    assert spread([0.0, 0.0, 1.0, 1.0], gap=0.1, low=0, high=1) == pytest.approx([0.0, 0.1, 0.9, 1.0])


def test_clock_leaves_pauses_out() -> None:
    clock = Clock.of([Span("train", 100.0, 50.0), Span("wait", 120.0, 40.0), Span("train", 4160.0, 10.0)])
    assert clock.pauses == ((160.0, 4000.0),)
    assert [clock.seconds(time) for time in (100.0, 150.0, 160.0, 4160.0, 4170.0)] == [0, 50, 60, 60, 70]


def test_timeline_of_a_long_run_with_a_pause_decodes() -> None:
    trainer = [Span("train", 400.0 * i + (9e4 if i > 30 else 0), 390.0) for i in range(55)]
    labeler = [Span("dream", 400.0 * i + (9e4 if i > 30 else 0), 1e-6) for i in range(55)]
    made = {1: Span("labels", 4000.0, 20.0)}
    png = timeline_picture(subtitle="x", spans={"trainer": trainer, "labeler": labeler}, made=made, num_epochs=55)
    assert imread(BytesIO(png), format="png").shape[:2] == (HEIGHT, WIDTH)


def test_duration_is_readable() -> None:
    assert [duration(s) for s in (0.04, 99, 600, 7200)] == ["0.0 s", "99.0 s", "10.0 min", "2.0 h"]


def test_shorten_makes_any_file_name_printable() -> None:
    assert shorten("wave", 4) == "wave"
    assert shorten("waving", 4) == "wav…"
    assert shorten("a\udcff", 4) == "a?"
