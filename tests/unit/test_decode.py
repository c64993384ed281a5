"""Letters: F frames, S side. Videos hold their frame number in six blocks, black or white."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from aplt.common.data.containers import outline
from aplt.common.data.decode import decode_clips, decode_files
from aplt.common.data.estimate import estimate
from aplt.common.data.frames import Failure, Frames, FrameSpec, Job, frame_indices
from aplt.common.errors import DataError

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is not there")
SPEC = FrameSpec(num_frames=4, size=48, fit="stretch")

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


def write_video(
    path: Path,
    frames: list[NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    key_every: int = 12,
    reordered: int = 0,
    times_ms: list[int] | None = None,
    **options: str,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = pixels, key_every, reordered
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times_ms:
                picture.pts, picture.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def numbered(num_frames: int, *, width: int = 64, height: int = 48) -> list[NDArray[np.uint8]]:
    columns, rows = np.arange(width) * 3 // width, np.arange(height) * 2 // height
    bits = columns[None] + 3 * rows[:, None]
    return [np.repeat(((i >> bits & 1) * 200 + 20).astype(np.uint8)[..., None], 3, axis=2) for i in range(num_frames)]


def numbers(frames_FSSC: NDArray[np.uint8]) -> list[int]:
    """Return the numbers of frames that are stretched to a square and upright."""
    middles = frames_FSSC[:, 12::24, 8::16, 0].reshape(len(frames_FSSC), 6) > 128
    return [int(number) for number in middles @ (1 << np.arange(6))]


def decode(jobs: list[Job], spec: FrameSpec = SPEC, decoder: Any = None) -> dict[int, Frames | Failure]:
    outcomes = decode_clips(jobs, spec=spec, workers=1, timeout_s=30, decoder=decoder)
    return {job.index: outcome for job, outcome in outcomes}


def decode_named(clips: Mapping[str, Job]) -> dict[str, Frames | Failure]:
    outcomes = decode([Job(i, job.path, job.start, job.end) for i, job in enumerate(clips.values())])
    return {name: outcomes[i] for i, name in enumerate(clips)}


def clip(path: Path, start: int | None = None, end: int | None = None) -> Job:
    return Job(0, str(path), start, end)


def frames_of(outcome: Frames | Failure) -> NDArray[np.uint8]:
    assert isinstance(outcome, Frames), outcome
    return outcome.frames_FHWC


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


def test_frames_are_exact_to_the_one(tmp_path: Path) -> None:
    frames = numbered(50)
    kinds: dict[str, dict[str, Any]] = {
        "plain.mp4": {},
        "open groups.mp4": {"codec": "libx265", "reordered": 2, "x265-params": "log-level=none"},
        "no times.avi": {"codec": "mpeg4", "reordered": 2},
        "h264.avi": {"reordered": 2},
        "old.mkv": {"codec": "mpeg2video", "reordered": 2},
        "older.mpg": {"codec": "mpeg1video", "reordered": 2},
        "windows.wmv": {"codec": "wmv2"},
        "flash.flv": {"codec": "flv"},
        "vp9.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"},
        "av1.mkv": {"codec": "libsvtav1", "preset": "12"},
        "ten bits.mp4": {"pixels": "yuv420p10le"},
        "all keys.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    }
    clips = {}
    for name, how in kinds.items():
        path = write_video(tmp_path / name, frames, **how)
        for start, end in ((None, None), (10, 13), (0, 3), (22, 25), (20, 49), (46, 90), (12, 12)):
            clips[f"{name} {start} {end}"] = clip(path, start, end)
    outcomes = decode_named(clips)
    for name, job in clips.items():
        expected = frame_indices(4, nframes=50, start=job.start, end=job.end).tolist()
        assert numbers(frames_of(outcomes[name])) == expected, name


def test_pictures_of_every_kind_are_read(tmp_path: Path) -> None:
    """Sizes, turned pictures, lengths, rates, names; what a link points to and what cannot be written."""
    times = [40 * i for i in range(20)] + [800 + 200 * i for i in range(20)]
    plain = write_video(tmp_path / "plain.mp4", numbered(16))
    clips = {
        "uneven": clip(write_video(tmp_path / "uneven.mp4", numbered(40), times_ms=times)),
        "uneven part": clip(tmp_path / "uneven.mp4", 10, 29),
        "tall": clip(write_video(tmp_path / "tall.mp4", numbered(16, width=48, height=96))),
        "as turned": clip(write_video(tmp_path / "as turned.mp4", numbered(16, width=48, height=64))),
        "narrow": clip(write_video(tmp_path / "narrow.mkv", numbered(16, width=144, height=144), codec="mpeg4")),
        "odd": clip(write_video(tmp_path / "odd.mp4", numbered(16, width=63, height=47), pixels="yuv444p")),
        "large": clip(write_video(tmp_path / "4K.mp4", numbered(2, width=3840, height=2160), preset="ultrafast")),
        "one": clip(write_video(tmp_path / "one.mp4", numbered(1))),
        "few": clip(write_video(tmp_path / "few.mp4", numbered(3))),
        "late end": clip(plain, 12, 50),
        "late start": clip(plain, 20),
        "name": clip(write_video(tmp_path / "sp ace/[b] #1 %20 é ünï 日本\n.mp4", numbered(16))),
        "no unicode": clip(Path(plain.rename(tmp_path / os.fsdecode(b"\xff\xfe.mp4")))),
    }
    plain.symlink_to(tmp_path / os.fsdecode(b"\xff\xfe.mp4"))
    clips["link"] = clip(plain)
    for turned in (90, 180, 270):
        upright = numbered(16)
        stored = [np.ascontiguousarray(np.rot90(frame, turned // 90)) for frame in upright]
        path = write_video(tmp_path / f"{turned}.mp4", stored)
        path.write_bytes(with_turn(path.read_bytes(), turned))
        clips[f"turned {turned}"] = clip(path)
    (tmp_path / "sp ace").chmod(0o555)
    outcomes = decode_named(clips)
    assert outcomes.pop("late start") == Failure("the clip starts at frame 20, but the last frame is 15")
    assert {name: numbers(frames_of(outcome)) for name, outcome in outcomes.items()} == {
        "uneven": [14, 24, 30, 36],  # 583, 1749, 2915 and 4081 of 4664 ms
        "uneven part": [17, 22, 25, 28],  # 700, 1300, 1900 and 2500 ms, from 400 to 2800
        "large": [0, 0, 1, 1],
        "one": [0, 0, 0, 0],
        "few": [0, 1, 1, 2],
        "late end": [12, 13, 14, 15],
    } | {name: [2, 6, 10, 14] for name in ("tall", "as turned", "narrow", "odd", "name", "no unicode", "link")} | {
        f"turned {turned}": [2, 6, 10, 14] for turned in (90, 180, 270)
    }
    sizes = {name: (outcome.width, outcome.height) for name, outcome in outcomes.items() if isinstance(outcome, Frames)}
    assert {name: sizes[name] for name in ("tall", "as turned", "narrow", "odd", "large")} == {
        "tall": (48, 96),
        "as turned": (48, 64),
        "narrow": (144, 144),
        "odd": (63, 47),
        "large": (3840, 2160),
    }
    assert {sizes[f"turned {turned}"] for turned in (90, 180, 270)} == {(64, 48)}
    link = outcomes["link"]
    assert isinstance(link, Frames)
    assert (link.fps, link.nframes) == (25.0, 16)


def with_turn(mp4: bytes, degrees: int) -> bytes:
    """Return the file with the tag that players turn its pictures by, clockwise."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = b"".join((value << 16).to_bytes(4, "big", signed=True) for value in (cos, sin, 0, -sin, cos, 0))
    place = mp4.index(b"tkhd") + 4 + 40
    return mp4[:place] + matrix + mp4[place + len(matrix) :]


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


def test_files_that_cannot_be_used_get_a_reason_of_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    good = write_video(tmp_path / "good.mp4", list(noise)).read_bytes()
    half = good[: len(good) // 2]
    contents = {
        "cut": half,  # the index comes first and promises 30 frames
        "holes": half.ljust(len(good), b"\0"),
        "headless": good[len(good) // 2 :],
        "empty": b"",
        "text": b"no video " * 100,
        "no access": good,
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
    (tmp_path / "no access.mp4").chmod(0)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    write_video(tmp_path / "stream.ts", numbered(16), reordered=2)
    names = [*contents, "link", "loop", "folder", "pipe", "sound", "vanished", "good"]
    clips = {name: clip(tmp_path / f"{name}.mp4") for name in names} | {"stream": clip(tmp_path / "stream.ts")}
    results = decode_named(clips)
    assert {name: getattr(outcome, "reason", "") for name, outcome in results.items()} == {
        "cut": f"the file is cut off: {len(half)} of {len(good)} bytes are there",
        "holes": "the video is damaged: a part of it cannot be decoded",
        "headless": "the file is no video, or its index is cut off",
        "empty": "the file is empty",
        "text": "the file is no video, or its index is cut off",
        "no access": "" if os.geteuid() == 0 else "Permission denied",
        "link": "No such file or directory",
        "loop": "Too many levels of symbolic links",
        "folder": "this is no regular file",
        "pipe": "this is no regular file",
        "sound": "the file has no video stream",
        "vanished": "No such file or directory",
        "stream": "frames of an MPEG transport stream cannot be counted: "
        "repackage it (ffmpeg -i FILE -c copy FILE.mp4)",
        "good": "",
    }
    assert all(getattr(outcome, "retry_above_s", None) is None for outcome in results.values())
    assert capfd.readouterr() == ("", "")


def test_files_that_hold_less_than_they_promise(tmp_path: Path) -> None:
    """The decoder takes a cut Matroska or AVI file for a shorter video, and repeats frames that are missing."""
    codecs = {"mp4": "libx264", "mov": "libx264", "mkv": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4"}
    clips, expected = {}, {}
    for suffix, codec in codecs.items():
        whole = write_video(tmp_path / f"whole.{suffix}", numbered(24), codec=codec, key_every=4)
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[: int(0.9 * whole.stat().st_size)])
        assert outline(str(whole)).promised_bytes == whole.stat().st_size == outline(str(cut)).promised_bytes
        clips |= {f"whole {suffix}": clip(whole), f"cut {suffix}": clip(cut)}
        expected |= {f"whole {suffix}": "", f"cut {suffix}": "the file is cut off"}
    clips["part"] = clip(tmp_path / "cut.mkv", 4, 7)  # all its frames are there
    counts = (tmp_path / "whole.mp4").read_bytes()
    for table in ("stts", "stsz"):  # 24 frames, it says; make it 6000
        first = counts.index(table.encode()) + 12
        assert counts[first : first + 4] == (24).to_bytes(4, "big")
        counts = counts[:first] + (6000).to_bytes(4, "big") + counts[first + 4 :]
    (tmp_path / "boast.mp4").write_bytes(counts)
    skipped(tmp_path / "whole.avi", tmp_path / "skipped.avi")
    cluster = (holes := bytearray((tmp_path / "whole.mkv").read_bytes())).index(b"\x1f\x43\xb6\x75")
    holes[cluster : cluster + 200] = bytes(200)
    (tmp_path / "holes.mkv").write_bytes(holes)
    clips |= {name: clip(tmp_path / name) for name in ("boast.mp4", "skipped.avi", "holes.mkv")}
    results = decode_named(clips)
    assert numbers(frames_of(results.pop("part"))) == [4, 5, 6, 7]
    assert {name: getattr(outcome, "reason", "").split(":")[0] for name, outcome in results.items()} == expected | {
        "boast.mp4": "the video is damaged",
        "skipped.avi": "the video is damaged",
        "holes.mkv": f"the file is damaged at byte {cluster}",
    }
    assert results["skipped.avi"] == Failure("the video is damaged: it holds fewer frames than it says")


def skipped(source: Path, target: Path) -> None:
    """Write a video of 24 frames again, the last 8 as packets that hold none."""
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for index, packet in enumerate(packet for packet in given.demux(video=0) if packet.size):
            empty = av.Packet(b"\0\0\1\xb6\x7f")
            empty.pts, empty.dts, empty.time_base = packet.pts, packet.dts, packet.time_base
            kept = packet if index < 16 else empty
            kept.stream = stream
            container.mux(kept)


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
