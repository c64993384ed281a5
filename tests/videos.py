"""Videos for tests, which hold their frame number in six blocks, black or white. Letters: F frames, S side."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from aplt.common.data.decode import decode_clips
from aplt.common.data.frames import Failure, Frames, FrameSpec, Job

SPEC = FrameSpec(num_frames=4, size=48, fit="stretch")


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


def with_turn(mp4: bytes, degrees: int) -> bytes:
    """Return the file with the tag that players turn its pictures by, clockwise."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = b"".join((value << 16).to_bytes(4, "big", signed=True) for value in (cos, sin, 0, -sin, cos, 0))
    place = mp4.index(b"tkhd") + 4 + 40
    return mp4[:place] + matrix + mp4[place + len(matrix) :]


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
