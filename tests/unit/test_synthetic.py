from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import fields
from pathlib import Path

import decord
import numpy as np
import pytest

from aplt.common.errors import ApltError, ConfigError, DataError
from aplt.deploy.figure import Canvas, Pose, Subject, draw_figure
from aplt.deploy.motion import ACTIONS, Beat
from aplt.deploy.synthetic import MAX_FRAMES, MIN_FRAMES, ClipSettings, clip_names, make_clips, render_clip

SETTINGS = ClipSettings(num_clips=32, num_subjects=3, size=64, seed=5)


def _make(out: Path, *, seed: int = 5, workers: int = 1, calls: list[tuple[int, int]] | None = None) -> Path:
    note = None if calls is None else (lambda done, total: calls.append((done, total)))
    return make_clips(out, num_clips=32, num_subjects=3, size=64, seed=seed, workers=workers, progress=note)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av", reason="PyAV (the demo extra) is not installed")
    return _make(tmp_path_factory.mktemp("clips") / "made")


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.mp4"))}


def test_every_clip_is_a_video_that_decord_reads(made: Path) -> None:
    paths = sorted(made.rglob("*.mp4"))
    assert [str(path.relative_to(made)) for path in paths] == sorted(clip_names(SETTINGS))
    for path in paths:
        video = decord.VideoReader(str(path), num_threads=1)
        assert MIN_FRAMES <= len(video) <= MAX_FRAMES
        assert video.get_avg_fps() == pytest.approx(15)
        assert video[len(video) - 1].shape == (64, 64, 3)


def test_a_video_holds_the_rendered_frames(made: Path) -> None:
    index = 7
    name = clip_names(SETTINGS)[index]
    action, subject = name.split("/")[0], int(Path(name).stem[1:3])
    rendered = render_clip(SETTINGS, index, action, subject)
    video = decord.VideoReader(str(made / name), num_threads=1)
    decoded = video.get_batch(range(len(video))).asnumpy()
    assert decoded.shape == rendered.shape
    blur = [frames.reshape(len(frames), 16, 4, 16, 4, 3).mean((2, 4)) for frames in (decoded, rendered.astype(float))]
    assert np.abs(blur[0] - blur[1]).mean() < 4


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(made: Path, tmp_path: Path) -> None:
    assert _bytes(_make(tmp_path / "again", workers=3)) == _bytes(made)


def test_another_seed_gives_other_frames() -> None:
    other = ClipSettings(num_clips=32, num_subjects=3, size=64, seed=6)
    first, second = (render_clip(settings, 0, "nod", 1)[0].astype(float) for settings in (SETTINGS, other))
    assert np.abs(first - second).mean() > 5


def test_what_is_there_is_kept_and_what_is_missing_is_made(made: Path, tmp_path: Path) -> None:
    out = _make(tmp_path / "resumed")
    names = clip_names(SETTINGS)
    kept = (out / names[0]).stat().st_mtime_ns
    for name in names[5:8]:
        (out / name).unlink()
    (out / names[5]).with_suffix(".part").write_bytes(b"half a clip")
    calls: list[tuple[int, int]] = []
    _make(out, calls=calls)
    assert calls == [(29, 32), (30, 32), (31, 32), (32, 32)]
    assert _bytes(out) == _bytes(made)
    assert (out / names[0]).stat().st_mtime_ns == kept
    assert not list(out.rglob("*.part"))


def test_a_finished_folder_is_left_alone(made: Path) -> None:
    calls: list[tuple[int, int]] = []
    assert _make(made, calls=calls) == made
    assert calls == [(32, 32)]


def test_a_folder_with_other_settings_is_refused_and_named(made: Path) -> None:
    with pytest.raises(DataError, match=r"seed 5 -> 6.*delete it or choose another folder"):
        _make(made, seed=6)


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not synthetic clips"):
        _make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_pyav_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ApltError, match=r"pip install 'aplt\[demo\]'"):
        _make(tmp_path / "out")


def test_the_settings_are_recorded(made: Path) -> None:
    assert json.loads((made / "clips.json").read_text())["seed"] == 5


def test_classes_are_imbalanced_but_every_person_does_every_action() -> None:
    names = clip_names(ClipSettings(num_clips=640, num_subjects=10, size=96, seed=0))
    counts = Counter(name.split("/")[0] for name in names)
    assert set(counts) == set(ACTIONS)
    assert sum(counts.values()) == 640
    assert 3 <= max(counts.values()) / min(counts.values()) <= 4
    assert len({name.rsplit("_", 1)[0] for name in names}) == 8 * 10


@pytest.mark.parametrize(
    ("action", "moved", "rows"),
    [
        ("nod", "pitch_T", (4, 30)),
        ("shake_head", "yaw_T", (4, 30)),
        ("tilt_head", "roll_T", (4, 30)),
        ("shrug", "shoulders_T2", (4, 54)),
        ("touch_face", "hands_T22", (12, 56)),
        ("touch_arm", "hands_T22", (20, 56)),
        ("rub_hands", "hands_T22", (24, 58)),
        ("tap_leg", "knees_T2", (40, 64)),
    ],
)
def test_an_action_moves_one_thing_and_the_picture_there(action: str, moved: str, rows: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    person = Subject.draw(rng)
    still = Pose.rest(16, np.array([[0.37, 0.79], [0.63, 0.79]]))
    pose = copy.deepcopy(still)
    ACTIONS[action](pose, rng, Beat.draw(rng, np.arange(16) / 16))
    changed = [field.name for field in fields(Pose) if (getattr(pose, field.name) != getattr(still, field.name)).any()]
    assert changed == [moved]
    canvas = Canvas(np.full((16, 64, 64, 3), 200, np.float32))
    draw_figure(canvas, person, pose)
    motion_S = canvas.frames_TSS3.std(0).sum((1, 2))
    assert motion_S[slice(*rows)].sum() > 0.99 * motion_S.sum() > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_clips": 8}, "at least 32"), ({"num_subjects": 0}, "1 to 99"), ({"size": 65}, "even number")],
)
def test_senseless_settings_are_refused(tmp_path: Path, change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_clips(tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()
