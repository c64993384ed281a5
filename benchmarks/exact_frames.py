"""Count wrong frames over combinations of containers and codecs: decord's own `get_batch`, and ours.

    python benchmarks/exact_frames.py

Every file holds 75 frames with their number in black and white blocks and a key frame every 12 frames. Eight frames in
the middles of equal parts of overlapping windows are asked for, in order and in disorder, from one open file.
Combinations that PyAV cannot write, or whose file decord cannot open, are left out.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np

from aplt.common.data.containers import outline
from aplt.common.data.frames import Uint8, frame_indices
from aplt.common.data.video import Video

FRAMES, WIDTH, HEIGHT = 75, 128, 96
CONTAINERS = ["mp4", "mov", "m4v", "3gp", "mkv", "webm", "avi", "flv", "wmv", "mpg", "vob", "ts", "m2ts"]
CODECS: dict[str, dict[str, str]] = {
    "libx264": {},
    "libx265": {"x265-params": "log-level=none"},
    "mpeg4": {"b": "800k"},
    "mpeg2video": {"b": "800k"},
    "mpeg1video": {"b": "800k"},
    "mjpeg": {},
    "libvpx": {"deadline": "realtime", "b": "500k"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "500k"},
    "libsvtav1": {"preset": "10"},
    "wmv2": {"b": "800k"},
    "msmpeg4v3": {"b": "800k"},
    "flv": {"b": "800k"},
    "h263p": {"b": "800k"},
    "ffv1": {},
}
REORDERED = ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video")


def picture(number: int) -> Uint8:
    """Return a picture with the bits of `number` in 4 x 2 blocks."""
    bits = np.arange(WIDTH) * 4 // WIDTH + 4 * (np.arange(HEIGHT) * 2 // HEIGHT)[:, None]
    return np.repeat(((number >> bits & 1) * 200 + 20).astype(np.uint8)[..., None], 3, axis=2)


def number(frame_HWC: Uint8) -> int:
    """Return the number in a picture."""
    blocks = frame_HWC[HEIGHT // 4 :: HEIGHT // 2, WIDTH // 8 :: WIDTH // 4, 0].reshape(8) > 128
    return int(blocks @ (1 << np.arange(8)))


def write(path: Path, codec: str, reordered: int) -> None:
    """Write the numbered frames."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=CODECS[codec])
        stream.width, stream.height, stream.gop_size, stream.max_b_frames = WIDTH, HEIGHT, 12, reordered
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode())


def wrong(get: Any, requests: list[list[int]]) -> tuple[int, int]:
    """Return how many frames are wrong, and by how many frames at most; of those that cannot be had, all are wrong."""
    count = worst = 0
    for indices in requests:
        try:
            off = [abs(number(frame) - index) for frame, index in zip(get(indices), indices, strict=True)]
        except (decord.DECORDError, decord.DECORDLimitReachedError, ValueError):
            off = [FRAMES] * len(indices)
        count, worst = count + sum(map(bool, off)), max(worst, *off)
    return count, worst


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    decord.logging.set_level(decord.logging.QUIET)
    av.logging.set_level(None)
    starts = list(range(0, FRAMES - 8, 5))
    requests = [
        np.unique(frame_indices(8, nframes=FRAMES, start=start, end=start + 39)).tolist()
        for start in starts + random.Random(0).sample(starts, len(starts))
    ]
    asked, rows, tried, refused = sum(map(len, requests)), [], 0, 0
    with tempfile.TemporaryDirectory() as made:
        for suffix in CONTAINERS:
            for codec in CODECS:
                for reordered in (0, 2) if codec in REORDERED else (0,):
                    path = Path(made) / f"{codec}{reordered}.{suffix}"
                    with suppress(av.FFmpegError, ValueError):
                        write(path, codec, reordered)
                    try:
                        reader, video = decord.VideoReader(str(path), num_threads=1), Video(str(path))
                    except (decord.DECORDError, RuntimeError):
                        continue
                    tried += 1
                    own = wrong(lambda indices, reader=reader: reader.get_batch(indices).asnumpy(), requests)
                    ours = wrong(video.frames, requests)
                    is_refused = outline(str(path)).transport_stream
                    refused += is_refused
                    if own[0] or ours[0]:
                        result = "refused" if is_refused else f"{ours[0]:7}{ours[1]:8}"
                        rows.append(
                            f"{suffix:8}{codec:12}{'yes' if reordered else 'no':>10}{own[0]:9}{own[1]:8}{result:>15}"
                        )
    print(f"{tried} files, {refused} of them refused; {asked} frames asked for of each; those with a wrong one:\n")
    print(f"{'':30}{'decord alone':>17}{'ours':>15}")
    print(f"{'file':8}{'codec':12}{'reordered':>10}{'wrong':>9}{'by':>8}{'wrong':>7}{'by':>8}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
