"""Which frames are kept, how they fill a square, and what becomes of workers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from videos import SPEC, decode, frames_of, numbered, write_video

from aplt.common.data.decode import decode_clips, decode_files
from aplt.common.data.estimate import estimate
from aplt.common.data.frames import Failure, Frames, FrameSpec, Job, frame_indices
from aplt.common.errors import DataError

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is not there")

FAKES = """
import ctypes, os, signal
from dataclasses import replace
import numpy as np
from aplt.common.data.frames import ClipDecoder, Frames
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
class EachFit(ClipDecoder):
    def __call__(self, job, spec):
        return super().__call__(job, replace(spec, fit=("crop", "pad", "stretch")[job.index % 3]))
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "fake_decoders.py").write_text(FAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    import fake_decoders  # type: ignore[import-not-found]

    return fake_decoders


@pytest.fixture
def fake(fakes: Any) -> Callable[[Job, FrameSpec], Frames]:
    decoder: Callable[[Job, FrameSpec], Frames] = fakes.fake
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


@pytest.mark.parametrize("rate", ["even", "rounded", "first late"])
def test_even_rates_are_sampled_by_index(rate: str) -> None:
    times = np.arange(91) / 30
    if rate == "rounded":
        times = times.round(2)
    if rate == "first late":
        times[0] += 0.015
    for start, end in ((None, None), (7, 40), (3, 3), (50, 51)):
        for num_frames in (4, 8, 9):
            indices = frame_indices(num_frames, nframes=90, start=start, end=end, times_N=times)
            assert indices.tolist() == frame_indices(num_frames, nframes=90, start=start, end=end).tolist()


def test_uneven_rates_are_sampled_by_time() -> None:
    times = np.array([0.0, 1, 2, 3, 4, 10, 20, 30, 40])  # 8 frames, the last for 10 s
    assert frame_indices(4, nframes=8, start=None, end=None, times_N=times).tolist() == [4, 5, 6, 7]
    assert frame_indices(5, nframes=8, start=1, end=5, times_N=times).tolist() == [2, 4, 5, 5, 5]
    assert frame_indices(5, nframes=8, start=0, end=4, times_N=times).tolist() == [0, 1, 2, 3, 4]
    assert frame_indices(2, nframes=8, start=5, end=99, times_N=times).tolist() == [5, 7]


def test_crop_pad_and_stretch(tmp_path: Path, fakes: Any) -> None:
    # Red on the first tenth of the long side, blue on the last, a ramp of green between; lying and standing.
    line = np.zeros((120, 3), np.uint8)
    line[:, 1] = np.linspace(0, 255, 120)
    line[:12], line[-12:] = (255, 0, 0), (0, 0, 255)
    wide = np.repeat(line[None], 80, axis=0)
    paths = [
        write_video(tmp_path / f"{name}.mp4", [picture] * 3, crf="12")
        for name, picture in (("wide", wide), ("tall", wide.transpose(1, 0, 2)))
    ]
    cropped = line[np.clip(((np.arange(60) + 0.5) * 80 / 60 + 20).astype(int), 0, 119)].astype(np.int64)
    jobs = [Job(3 * tall + fit, str(path)) for tall, path in enumerate(paths) for fit in range(3)]
    results = decode(jobs, FrameSpec(num_frames=1, size=60), fakes.EachFit())
    for number, fit in enumerate(("crop", "pad", "stretch")):
        for tall in range(2):
            picture = frames_of(results[3 * tall + number])[0].astype(np.int64)
            picture = picture.transpose(1, 0, 2) if tall else picture
            along, across = picture[30], picture[:, 30]
            if fit == "crop":
                assert np.abs(along - cropped).max() < 20
            else:
                assert (along[1:4, 0] > 200).all()
                assert (along[-4:-1, 2] > 200).all()
            borders = (across[:10].max(), across[-10:].max())
            assert borders == (0, 0) if fit == "pad" else min(borders) > 90
            assert (across[11:-11].max(axis=1) > 90).all()


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


def test_clips_of_one_video_follow_each_other(fake: Callable[[Job, FrameSpec], Frames]) -> None:
    jobs = [Job(i, "ab"[i % 2], start) for i, start in enumerate((30, 0, 10, 5, 20, 1))]
    outcomes = decode_clips(jobs, spec=FrameSpec(num_frames=1, size=8), workers=1, timeout_s=30, decoder=fake)
    order = [(job.path, job.start) for job, _ in outcomes]
    assert order == [("b", 0), ("b", 1), ("b", 5), ("a", 10), ("a", 20), ("a", 30)]


def test_an_estimate_from_a_few_clips(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", numbered(50))
    jobs = [Job(i, str(video), i % 40, i % 40 + 9) for i in range(200)]
    jobs[125] = Job(125, str(tmp_path / "gone.mp4"))
    found = estimate(jobs, spec=SPEC, workers=1, timeout_s=30, sample=4)
    assert [job.index for job in found.sampled] == [25, 75, 125, 175]
    assert found.failed == {125: "No such file or directory"}
    assert (found.num_clips, found.num_videos, found.num_bytes) == (200, 2, 200 * 4 * 48 * 48 * 3)
    assert found.seconds == pytest.approx(200 * found.clip_s + 2 * found.opening_s)
    assert 0 < found.clip_s < 1
    assert estimate([], spec=SPEC, workers=2, timeout_s=30).seconds == 0


@needs_clips
def test_real_clips_of_many_formats_match_another_decoder() -> None:
    jobs = [Job(index, str(path)) for index, path in enumerate(sorted(CLIPS.iterdir()))]
    spec = FrameSpec(num_frames=2, size=64, fit="stretch")
    results = dict(decode_clips(jobs, spec=spec, workers=2, timeout_s=60))
    assert set(results) == set(jobs)
    for job, outcome in results.items():
        assert isinstance(outcome, Frames), (job, outcome)
        wanted = frame_indices(2, nframes=outcome.nframes, start=None, end=None)
        for got, picture in zip(outcome.frames_FHWC, pictures(job.path, set(wanted.tolist())), strict=True):
            small = picture.reformat(width=64, height=64, format="rgb24", interpolation="AREA").to_ndarray()
            upright, size = np.rot90(small, picture.rotation // 90), (picture.width, picture.height)
            assert (outcome.width, outcome.height) == (size[::-1] if picture.rotation % 180 else size)
            # Compared as 8 x 8 pictures, so that the kind of scaling hardly matters while turning or mirroring does.
            off = [np.abs(shrunk(np.rot90(upright, turn)) - shrunk(got)).mean() for turn in (0, 2)]
            assert off[0] < min(4, off[1] / 2), job


def pictures(path: str, wanted: set[int]) -> Iterator[av.VideoFrame]:
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, picture in enumerate(container.decode(video=0)):
            if index in wanted:
                yield picture
            if index == max(wanted):
                return


def shrunk(picture_SSC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the means [8, 8, C] of 8 x 8 parts of a picture of 64 x 64 pixels."""
    return picture_SSC.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
