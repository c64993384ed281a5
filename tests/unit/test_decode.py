"""Letters: F frames, S side. Videos hold their frame number as brightness: frame i is grey 40 + 6 i."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from aplt.common.data.containers import outline
from aplt.common.data.decode import decode_clips, decode_files
from aplt.common.data.frames import Failure, Frames, FrameSpec, Job, frame_indices
from aplt.common.errors import DataError

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is not there")

FAKES = """
import ctypes, os, signal
import numpy as np
from aplt.common.data.frames import Frames
def fake(job, spec):
    if job.path == "hang":
        ctypes.PyDLL(None).sleep(600)  # as native code that never returns does: no other Python code can run
    if job.path == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.path == "exit":
        os._exit(7)
    if job.path == "raise":
        raise RuntimeError("two\\nlines")
    return Frames(np.full((spec.num_frames, spec.size, spec.size, 3), job.index, np.uint8), 25.0, 9, 64, 48)
"""


def write_video(
    path: Path, frames: list[NDArray[np.uint8]], *, codec: str = "libx264", options: dict[str, str] | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream: Any = container.add_stream(codec, rate=15, options={"crf": "12"} | (options or {}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbered(num_frames: int, *, width: int = 64, height: int = 48) -> list[NDArray[np.uint8]]:
    return [np.full((height, width, 3), 40 + 6 * i, np.uint8) for i in range(num_frames)]


def numbers(frames_FSSC: NDArray[np.uint8]) -> list[int]:
    return [round((float(frame.mean()) - 40) / 6) for frame in frames_FSSC]


def decode(jobs: list[Job], *, num_frames: int = 4, size: int = 32, fit: str = "crop") -> dict[int, Frames | Failure]:
    spec = FrameSpec(num_frames=num_frames, size=size, fit=fit)  # type: ignore[arg-type]
    return {job.index: outcome for job, outcome in decode_clips(jobs, spec=spec, workers=1, timeout_s=30)}


def frames_of(outcome: Frames | Failure) -> NDArray[np.uint8]:
    assert isinstance(outcome, Frames), outcome
    return outcome.frames_FHWC


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Job, FrameSpec], Frames]:
    (tmp_path / "fake_decoders.py").write_text(FAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    import fake_decoders  # type: ignore[import-not-found]

    decoder: Callable[[Job, FrameSpec], Frames] = fake_decoders.fake
    return decoder


def test_frames_are_the_middles_of_equal_parts() -> None:
    assert frame_indices(4, nframes=16, start=None, end=None).tolist() == [2, 6, 10, 14]
    assert frame_indices(4, nframes=4, start=None, end=None).tolist() == [0, 1, 2, 3]
    assert frame_indices(8, nframes=3, start=None, end=None).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert frame_indices(2, nframes=100, start=10, end=19).tolist() == [12, 17]
    assert frame_indices(3, nframes=100, start=7, end=7).tolist() == [7, 7, 7]
    assert frame_indices(2, nframes=12, start=10, end=50).tolist() == [10, 11]
    with pytest.raises(ValueError, match="starts at frame 90, but the last frame is 74"):
        frame_indices(8, nframes=75, start=90, end=99)
    with pytest.raises(ValueError, match="no frames"):
        frame_indices(8, nframes=0, start=None, end=None)


def test_real_files_give_the_wanted_frames_whatever_they_are_called(tmp_path: Path) -> None:
    # Widths 48 and 96 and the target width 48 are among those that the decoder gets wrong by itself.
    files = {
        "plain.mp4": (numbered(16), "libx264"),
        "sp ace/[b] #1 %20 é ünï 日本.mp4": (numbered(16, width=48, height=96), "libx264"),
        "old.avi": (numbered(16, width=96), "mpeg4"),
        "two.mkv": (numbered(2, width=144, height=144), "libx264"),
    }
    paths = [write_video(tmp_path / name, frames, codec=codec) for name, (frames, codec) in files.items()]
    (tmp_path / "link.mp4").symlink_to(paths[1])
    jobs = [Job(i, str(path)) for i, path in enumerate([*paths, tmp_path / "link.mp4"])]
    results = decode([*jobs, Job(9, str(paths[0]), 4, 7), Job(10, str(paths[0]), 20, None)], size=48)
    assert {i: numbers(frames_of(results[i])) for i in (0, 1, 2, 3, 4, 9)} == {
        0: [2, 6, 10, 14],
        1: [2, 6, 10, 14],
        2: [2, 6, 10, 14],
        3: [0, 0, 1, 1],
        4: [2, 6, 10, 14],
        9: [4, 5, 6, 7],
    }
    assert frames_of(results[1]).shape == (4, 48, 48, 3)
    assert all(int(frame.max()) - int(frame.min()) < 6 for i in range(4) for frame in frames_of(results[i]))
    first = results[0]
    assert isinstance(first, Frames)
    assert (first.fps, first.nframes) == (15.0, 16)
    assert results[10] == Failure("the clip starts at frame 20, but the last frame is 15")


def test_crop_pad_and_stretch(tmp_path: Path) -> None:
    # Red on the first tenth of the long side, blue on the last, a ramp of green between; lying and standing.
    line = np.zeros((120, 3), np.uint8)
    line[:, 1] = np.linspace(0, 255, 120)
    line[:12], line[-12:] = (255, 0, 0), (0, 0, 255)
    wide = np.repeat(line[None], 80, axis=0)
    pictures = {"wide": wide, "tall": wide.transpose(1, 0, 2)}
    jobs = [Job(i, str(write_video(tmp_path / f"{name}.mp4", [pictures[name]] * 3))) for i, name in enumerate(pictures)]
    cropped = line[np.clip(((np.arange(60) + 0.5) * 80 / 60 + 20).astype(int), 0, 119)].astype(np.int64)
    for fit in ("crop", "pad", "stretch"):
        results = decode(jobs, num_frames=1, size=60, fit=fit)
        for i in range(2):
            picture = frames_of(results[i])[0].astype(np.int64)
            picture = picture if i == 0 else picture.transpose(1, 0, 2)
            along, across = picture[30], picture[:, 30]
            if fit == "crop":
                assert np.abs(along - cropped).max() < 16
            else:
                assert (along[1:4, 0] > 200).all()
                assert (along[-4:-1, 2] > 200).all()
            borders = (across[:10].max(), across[-10:].max())
            assert borders == (0, 0) if fit == "pad" else min(borders) > 90
            assert (across[11:-11].max(axis=1) > 90).all()


def test_files_that_are_no_videos_get_a_reason_of_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    good = write_video(tmp_path / "good.mp4", list(noise)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(good[: len(good) // 2])  # the index comes first and promises 30 frames
    holes = good[: len(good) // 2].ljust(len(good), b"\0")
    (tmp_path / "holes.mp4").write_bytes(holes)
    (tmp_path / "headless.mp4").write_bytes(good[len(good) // 2 :])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    names = ["cut", "holes", "headless", "empty", "text", "link", "sound", "good"]
    results = decode([Job(i, str(tmp_path / f"{name}.mp4")) for i, name in enumerate(names)])
    reasons = {name: getattr(results[i], "reason", "") for i, name in enumerate(names)}
    assert reasons.pop("holes").startswith("the video is damaged: ")
    assert re.fullmatch(r"the file is cut off: \d+ of \d+ bytes are there", reasons.pop("cut"))
    assert reasons == {
        "headless": "the file is no video, or its index is cut off",
        "empty": "the file is empty",
        "text": "the file is no video, or its index is cut off",
        "link": "No such file or directory",
        "sound": "the file has no video stream",
        "good": "",
    }
    assert all(getattr(outcome, "retry_above_s", None) is None for outcome in results.values())
    assert capfd.readouterr() == ("", "")


def test_files_that_hold_less_than_they_promise(tmp_path: Path) -> None:
    """The decoder takes a cut Matroska or AVI file for a shorter video; counts that are too high make it give up."""
    codecs = {"mp4": "libx264", "mov": "libx264", "mkv": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4"}
    jobs, expected = [], []
    for suffix, codec in codecs.items():
        whole = write_video(tmp_path / f"whole.{suffix}", numbered(24), codec=codec, options={"g": "4"})
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[: int(0.9 * whole.stat().st_size)])
        assert outline(str(whole)).promised_bytes == whole.stat().st_size == outline(str(cut)).promised_bytes
        jobs += [whole, cut]
        expected += [False, True]
    part = Job(90, str(tmp_path / "cut.mkv"), 4, 7)  # all its frames are there
    counts = (tmp_path / "whole.mp4").read_bytes()
    for table, place in (("stts", 12), ("stsz", 12)):  # 24 frames, it says; make it 6000
        first = counts.index(table.encode()) + place
        assert counts[first : first + 4] == (24).to_bytes(4, "big")
        counts = counts[:first] + (6000).to_bytes(4, "big") + counts[first + 4 :]
    (tmp_path / "boast.mp4").write_bytes(counts)
    results = decode([*(Job(i, str(path)) for i, path in enumerate(jobs)), part, Job(91, str(tmp_path / "boast.mp4"))])
    cut_off = [isinstance(results[i], Failure) for i in range(len(jobs))]
    assert cut_off == expected
    assert numbers(frames_of(results[90])) == [4, 5, 6, 7]
    assert isinstance(results[91], Failure)
    assert results[91].reason.startswith("the video is damaged: ")


def test_workers_that_hang_crash_or_fail_cost_only_their_clip(fake: Callable[[Job, FrameSpec], Frames]) -> None:
    jobs = [Job(i, path) for i, path in enumerate(["a", "hang", "crash", "b", "exit", "raise", "c"])]
    spec = FrameSpec(num_frames=2, size=8)
    began = time.monotonic()
    outcomes = {
        job.index: outcome for job, outcome in decode_clips(jobs, spec=spec, workers=2, timeout_s=0.5, decoder=fake)
    }
    assert time.monotonic() - began < 60
    assert [int(frames_of(outcomes[i])[0, 0, 0, 0]) for i in (0, 3, 6)] == [0, 3, 6]
    assert outcomes[1] == Failure("decoding took longer than 0.5 s", retry_above_s=0.5)
    assert outcomes[2] == Failure("the decoder crashed (SIGSEGV)", retry_above_s=0.0)
    assert outcomes[4] == Failure("the decoder crashed (exit code 7)", retry_above_s=0.0)
    assert outcomes[5] == Failure("two lines")


def test_a_script_without_a_main_guard_works(tmp_path: Path, fake: Callable[[Job, FrameSpec], Frames]) -> None:
    (tmp_path / "script.py").write_text(
        "from fake_decoders import fake\n"
        "from aplt.common.data.decode import decode_clips\n"
        "from aplt.common.data.frames import FrameSpec, Job\n"
        "spec = FrameSpec(num_frames=1, size=8)\n"
        "print(len(list(decode_clips([Job(0, 'a')], spec=spec, workers=1, timeout_s=30, decoder=fake))))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")


def test_leaving_early_kills_a_worker_that_hangs(fake: Callable[[Job, FrameSpec], Frames]) -> None:
    spec = FrameSpec(num_frames=2, size=8)
    outcomes = decode_clips([Job(0, "a"), Job(1, "hang")], spec=spec, workers=1, timeout_s=600, decoder=fake)
    assert next(outcomes)[0].index == 0
    began = time.monotonic()
    outcomes.close()
    assert time.monotonic() - began < 5


def test_a_worker_that_cannot_start_is_an_error_not_a_bad_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "brittle.py").write_text(FAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    import brittle  # type: ignore[import-not-found]

    (tmp_path / "brittle.py").write_text("raise RuntimeError('not here')")
    outcomes = decode_clips(
        [Job(0, "a")], spec=FrameSpec(num_frames=1, size=8), workers=1, timeout_s=5, decoder=brittle.fake
    )
    with pytest.raises(DataError, match=r"ended before it was ready \(exit code 1\)"):
        list(outcomes)
    assert "not here" in capfd.readouterr().err


def test_no_jobs_start_no_processes() -> None:
    assert list(decode_clips([], spec=FrameSpec(num_frames=1, size=8), workers=0, timeout_s=1)) == []
    arguments = {"num_segments": 2, "frames_per_segment": 1, "size": 8, "workers": 4, "timeout_s": 1.0}
    assert list(decode_files([], fit="crop", **arguments)) == []  # type: ignore[arg-type]


@needs_clips
def test_real_clips_of_many_formats_match_another_decoder() -> None:
    paths = sorted(CLIPS.iterdir())
    results = dict(
        decode_files(paths, num_segments=2, frames_per_segment=1, size=64, fit="stretch", workers=2, timeout_s=60)
    )
    assert sorted(results) == paths
    for path, frames_FSSC in results.items():
        assert not isinstance(frames_FSSC, str), (path, frames_FSSC)
        with av.open(str(path)) as container:
            pictures = list(container.decode(video=0))
        for got, index in zip(frames_FSSC, frame_indices(2, nframes=len(pictures), start=None, end=None), strict=True):
            picture = pictures[index]
            upright = np.rot90(picture.to_ndarray(format="rgb24"), picture.rotation // 90)
            # Compared as 8 x 8 pictures, so that the kind of scaling hardly matters while turning or mirroring does.
            off = [np.abs(shrunk(np.rot90(upright, turn)) - shrunk(got)).mean() for turn in (0, 2)]
            assert off[0] < min(4, off[1] / 2), path


def shrunk(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    rows = np.array_split(picture.astype(np.float64), 8, axis=0)
    return np.array([[part.mean(axis=(0, 1)) for part in np.array_split(row, 8, axis=1)] for row in rows])
