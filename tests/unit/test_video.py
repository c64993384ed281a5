"""Files of every kind, frame by frame, and files that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from videos import clip, decode_named, frames_of, numbered, numbers, skipped, with_turn, write_video

from aplt.common.data.containers import outline
from aplt.common.data.frames import Failure, Frames, frame_indices


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
