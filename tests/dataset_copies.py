"""Small copies of the data sets: their folders, names and lists as they are delivered, with made-up videos.

Every frame shows its own number, so that tests can tell which frames of a video a clip is made of.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

GRID = 4  # cells along a side; each is one bit of the frame's number


def draw_number(number: int, *, width: int, height: int) -> NDArray[np.uint8]:
    """Return a frame [H, W, 3] that shows `number` as black and white cells."""
    bits = (number >> np.arange(GRID * GRID) & 1).reshape(GRID, GRID)
    rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
    return np.repeat((bits[rows][:, columns] * 200 + 28).astype(np.uint8)[:, :, None], 3, axis=2)


def read_number(frame_HWC: NDArray[np.uint8]) -> int:
    """Return the number that a frame shows; it may have been scaled, but not cropped."""
    height, width = frame_HWC.shape[:2]
    middles = (2 * np.arange(GRID) + 1) / (2 * GRID)
    rows, columns = (middles * height).astype(int), (middles * width).astype(int)
    bits = frame_HWC[rows][:, columns].mean(axis=2) > 128
    return int(bits.ravel() @ (1 << np.arange(GRID * GRID)))


def write_video(path: Path, *, frames: int, fps: int, width: int, height: int, codec: str = "libx264") -> None:
    """Write a video whose frames show the numbers from 0 on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"preset": "ultrafast", "threads": "1"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(draw_number(number, width=width, height=height), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write(path: Path, text: str) -> None:
    """Write a text as it is, line ends too, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


MA52_NAMES = {
    **{5: "bowing head", 7: "tilting head", 8: "turning head", 9: "nodding", 10: "shaking head"},
    **{17: "stretching arms", 21: "hands touching fingers", 22: "other finger movements"},
    **{23: "illustrative gestures", 31: "tiptoe", 48: "patting legs", 49: "touching legs"},
}


def ma52(root: Path, *, videos: bool = True) -> Path:
    """Write 2 subjects x 2 recordings x 6 clips of MA-52 and a test part, and return `root`.

    Both parts hold each class of MA-12 once. The names of the other classes are invented.
    """
    labels = sorted(MA52_NAMES)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(24):
        part = "train" if index < 12 else "val"
        subject, recording, clip = (3, 7)[index // 6 % 2], index // 12 + 1, index % 6 + 1
        name = f"{subject:04d}_{recording:02d}_{clip:04d}.mp4"
        lists[part].append(f"{name} {labels[index % 12]}\r\n")
        _clip(root / part / name, videos, frames=20 + index * 60 // 23)
    tested = [f"test{index:04d}.mp4" for index in range(2)]
    for name in tested:
        _clip(root / "test" / name, videos, frames=20)
    for part, lines in lists.items():
        write(root / "annotations" / f"{part}_list_videos.txt", "".join(lines))
    write(root / "annotations/test_list_videos.txt", "\r\n".join(f"{name} 0" for name in tested))
    names = (f"{number}\t{MA52_NAMES.get(number, f'class {number}')}" for number in range(52))
    write(root / "annotations/label_name.txt", "\r\n".join(names))
    return root


def _clip(path: Path, video: bool, *, frames: int) -> None:
    if video:
        write_video(path, frames=frames, fps=30, width=108, height=130)
    else:
        write(path, "")
