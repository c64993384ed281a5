"""Small synthetic micro-action clips as H.264 files, for a demonstration that needs no download.

A seated person makes one of eight small, short movements. Single frames hardly tell them apart: what moves and how
does. People, clothes, light, camera and background vary, and every clip holds movements that mean nothing.

T frames, S pixels along a side. Times are shares of the clip; lengths are shares of the frame's side.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from aplt.common.errors import ApltError, ConfigError, DataError
from aplt.deploy.figure import Canvas, Floats, Subject, draw_figure
from aplt.deploy.motion import ACTIONS, Beat, fidget, rest

FPS = 15
MIN_FRAMES, MAX_FRAMES = 12, 24
IMBALANCE = 3.0  # clips of the most frequent class for one of the rarest
MARKER = "clips.json"

_GENERATOR = 1  # changes when the same settings give other pixels
_CHUNK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """What the pixels of a set of clips depend on."""

    num_clips: int
    num_subjects: int
    size: int
    seed: int
    generator: int = _GENERATOR


def make_clips(
    out: Path,
    *,
    num_clips: int = 640,
    num_subjects: int = 10,
    size: int = 112,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return `out`, filled with `<class>/<subject>_<index>.mp4`: `num_clips` clips of `size` x `size` pixels.

    Clips that an earlier, perhaps interrupted call with the same settings made are kept. `progress` is told how many
    clips of how many are there. Raises ApltError without PyAV, ConfigError for settings that make no sense and
    DataError where `out` holds something else.
    """
    settings = ClipSettings(num_clips=num_clips, num_subjects=num_subjects, size=size, seed=seed)
    _check(settings)
    names = clip_names(settings)
    _claim(out, settings)
    missing = [index for index, name in enumerate(names) if not (out / name).exists()]
    done = num_clips - len(missing)
    if progress is not None:
        progress(done, num_clips)
    if not missing:
        return out
    _require_av()
    for name in {Path(name).parent for name in names}:
        (out / name).mkdir(exist_ok=True)
    write = partial(_write_clip, out, settings)
    for _ in _map(write, [(index, names[index]) for index in missing], workers):
        done += 1
        if progress is not None:
            progress(done, num_clips)
    return out


def clip_names(settings: ClipSettings) -> list[str]:
    """Return the path of every clip below the root: class sizes fall geometrically, people take turns."""
    share_K = IMBALANCE ** -np.linspace(0, 1, len(ACTIONS))
    ends_K = np.round(np.cumsum(share_K) / share_K.sum() * settings.num_clips).astype(int)
    label_N = np.searchsorted(ends_K, np.arange(settings.num_clips), side="right")
    classes = list(ACTIONS)
    return [
        f"{classes[label]}/S{index % settings.num_subjects + 1:02d}_{index:04d}.mp4"
        for index, label in enumerate(label_N)
    ]


def render_clip(settings: ClipSettings, index: int, action: str, subject: int) -> NDArray[np.uint8]:
    """Return the frames [T, S, S, 3] of clip `index`, in which person `subject` does `action`."""
    rng = np.random.default_rng((settings.seed, 1, index))
    person = Subject.draw(np.random.default_rng((settings.seed, 0, subject)))
    num_frames = int(rng.integers(MIN_FRAMES, MAX_FRAMES + 1))
    time_T = np.arange(num_frames, dtype=np.float32) / num_frames
    pose = rest(person, rng, num_frames)
    fidget(pose, rng, time_T)
    ACTIONS[action](pose, rng, Beat.draw(rng, time_T))
    canvas = Canvas(_room(person, rng, num_frames, settings.size))
    _draw_passer(canvas, rng, time_T)
    draw_figure(canvas, person, pose)
    return _film(canvas.frames_TSS3, rng, time_T)


def _room(person: Subject, rng: Generator, num_frames: int, size: int) -> Floats:
    """Frames of an empty room: a wall with its light and stains, and things that hang on it."""
    grid = rng.normal(0, 1, (6, 6)).astype(np.float32)
    at_S = np.linspace(0, 4.999, size)
    low, part = at_S.astype(int), (at_S % 1)[:, None].astype(np.float32)
    grid = grid[low] * (1 - part) + grid[low + 1] * part
    stain_SS = grid[:, low] * (1 - part.T) + grid[:, low + 1] * part.T
    fall_S1 = np.linspace(1.08, 0.9, size, dtype=np.float32)[:, None]
    wall_SS3 = (person.wall + rng.normal(0, 8, 3).astype(np.float32)) * (fall_S1 + 0.05 * stain_SS)[..., None]
    wall = Canvas(wall_SS3[None].astype(np.float32))
    for _ in range(rng.integers(0, 4)):
        x, y = rng.choice((-1, 1)) * rng.uniform(0.3, 0.46) + 0.5, rng.uniform(0.05, 0.6)
        w, h = rng.uniform(0.04, 0.12, 2)
        corners = np.asarray([[(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]], np.float32)
        wall.polygon(corners, rng.uniform(40, 230, 3).astype(np.float32))
    return np.repeat(wall.frames_TSS3, num_frames, 0)


def _draw_passer(canvas: Canvas, rng: Generator, time_T: Floats) -> None:
    """Something moves behind the person, in most clips."""
    if rng.random() < 0.4:
        return
    start, speed, height = rng.uniform(-0.2, 1.2), rng.normal(0, 0.5), rng.uniform(0.05, 0.6)
    bob = rng.uniform(0, 0.06) * np.sin(2 * np.pi * rng.uniform(0.5, 2.5) * time_T)
    path_T2 = np.stack([start + speed * time_T, height + bob], -1).astype(np.float32)
    canvas.ellipse(path_T2, (rng.uniform(0.02, 0.06), rng.uniform(0.02, 0.09)), rng.uniform(40, 230, 3))


def _film(frames_TSS3: Floats, rng: Generator, time_T: Floats) -> NDArray[np.uint8]:
    """Frames as a cheap camera sees them: exposure, drifting brightness, noise."""
    gain, drift = rng.uniform(0.75, 1.15), rng.normal(0, 0.04)
    phase = rng.uniform(0, 2 * np.pi)
    light_T = gain * (1 + drift * np.sin(2 * np.pi * rng.uniform(0.3, 1) * time_T + phase))
    noise_TSS = rng.standard_normal(frames_TSS3.shape[:3], np.float32) * np.float32(rng.uniform(2, 6))
    seen = frames_TSS3 * light_T.astype(np.float32)[:, None, None, None] + noise_TSS[..., None]
    return np.asarray(np.clip(seen + np.float32(0.5), 0, 255), np.uint8)


def _write_clip(out: Path, settings: ClipSettings, job: tuple[int, str]) -> None:
    """Render and encode one clip; the file appears under its name only when it is whole."""
    import av

    index, name = job
    action, stem = name.split("/")
    frames_TSS3 = render_clip(settings, index, action, int(stem[1:].split("_")[0]))
    path = out / name
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        # Constant quality without lookahead: x264's lookahead gave other bytes each time for frames this small.
        options = {"qp": "22", "preset": "veryfast", "tune": "zerolatency"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = settings.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame_SS3 in frames_TSS3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_SS3, format="rgb24")))
        container.mux(stream.encode())
    os.replace(part, path)


def _map(write: Callable[[tuple[int, str]], None], jobs: list[tuple[int, str]], workers: int) -> Iterator[None]:
    """Do the jobs and yield as each is done.

    Never in this process: PyAV and decord each bring an FFmpeg, and loaded together one ends up calling the other's.
    """
    workers = max(1, min(workers, -(-len(jobs) // _CHUNK)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, jobs, chunksize=_CHUNK)


def _check(settings: ClipSettings) -> None:
    if settings.num_clips < 4 * len(ACTIONS):
        raise ConfigError(f"num_clips is {settings.num_clips}: at least {4 * len(ACTIONS)} are needed for every class")
    if not 1 <= settings.num_subjects <= 99:
        raise ConfigError(f"num_subjects is {settings.num_subjects}: 1 to 99 are possible")
    if settings.size < 32 or settings.size % 2:
        raise ConfigError(f"size is {settings.size}: H.264 needs an even number, and less than 32 shows nothing")


def _claim(out: Path, settings: ClipSettings) -> None:
    """Mark `out` as the place of these settings, or refuse if it holds anything else."""
    out.mkdir(parents=True, exist_ok=True)
    marker, wanted = out / MARKER, asdict(settings)
    if marker.exists():
        found = json.loads(marker.read_text())
        if found != wanted:
            changed = ", ".join(
                f"{key} {found.get(key)} -> {wanted[key]}" for key in wanted if found.get(key) != wanted[key]
            )
            raise DataError(f"{out} holds clips of other settings ({changed}): delete it or choose another folder")
    elif any(out.iterdir()):
        raise DataError(f"{out} holds files that are not synthetic clips: choose an empty or a new folder")
    else:
        marker.write_text(json.dumps(wanted, indent=1))


def _require_av() -> None:
    if importlib.util.find_spec("av") is None:
        raise ApltError("writing video files needs PyAV, which is not installed: pip install 'aplt[demo]'")
