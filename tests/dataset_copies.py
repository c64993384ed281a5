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
        _video(root / part / name, videos, frames=20 + index * 60 // 23, fps=30, width=108, height=130)
    tested = [f"test{index:04d}.mp4" for index in range(2)]
    for name in tested:
        _video(root / "test" / name, videos, frames=20, fps=30, width=108, height=130)
    for part, lines in lists.items():
        write(root / "annotations" / f"{part}_list_videos.txt", "".join(lines))
    write(root / "annotations/test_list_videos.txt", "\r\n".join(f"{name} 0" for name in tested))
    names = (f"{number}\t{MA52_NAMES.get(number, f'class {number}')}" for number in range(52))
    write(root / "annotations/label_name.txt", "\r\n".join(names))
    return root


IMIGUE_FRAMES = 300
IMIGUE_ROWS = {  # class as in the files, first frame, last frame
    "0001": ((31, 0, 24), (29, 25, 60), (2, 100, 140), (31, 299, 299)),
    "0012": ((29, 10, 30), (31, 30, 55), (31, 56, 56), (99, 60, 90), (20, 91, 120), (2, 250, 320)),
    "0054": ((20, 5, 40), (99, 41, 80), (29, 81, 110)),
}
IMIGUE_PARTS = {"0001": "validate", "0012": "train", "0054": "test"}


def imigue(root: Path, *, form: str = "per video", videos: bool = True) -> Path:
    """Write three videos of iMiGUE with labels in one of two forms, and return `root`.

    Their rows touch, share a frame, are one frame long, and reach past the last frame; one class is 99. `form` is
    "per video", as in the challenges, where the test videos' classes are not the real ones, or "table".
    """
    for video, part in IMIGUE_PARTS.items():
        phase = 2 if part == "test" else 1
        path = root / f"iMiGUE_RGB_Phase{phase}/imigue_rgb_{part}/{video}/{video}.mp4"
        _video(path, videos, frames=IMIGUE_FRAMES, fps=25, width=128, height=72)
    if form == "table":
        columns = "video_id,label_id,start_time,start_frame,end_time,end_frame,class,"
        lines = [columns + "subject_id,subject_gender,subject_nationality,win_or_lose"]
        for video, rows in IMIGUE_ROWS.items():
            lines += [
                f"{int(video)},{place},{start / 25:.4f},{start},{end / 25:.4f},{end},{label},{int(video)},f,Nowhere,Win"
                for place, (label, start, end) in enumerate(rows, start=1)
            ]
        write(root / "Label/excel/labels_20200831.csv", "\r\n".join(lines))
        return root
    for video, rows in IMIGUE_ROWS.items():
        part = IMIGUE_PARTS[video]
        parent = "imigue_data_phase2" if part == "test" else "imigue_data_phase1/datasets"
        text = "".join(f"{1 if part == 'test' else label},{start},{end}\n" for label, start, end in rows)
        write(root / parent / f"imigue_skeleton_{part}/{video}/{video}_label.csv", text)
    return root


SMG_FRAMES = 200
SMG_ROWS = {  # class as in the files, first frame, last frame
    "0001": ((3, 0, 30), (5, 31, 60), (8, 60, 90), (9, 91, 94), (12, 100, 130), (17, 140, 160)),
    "0031": ((5, 10, 40), (9, 41, 70), (3, 80, 110)),
    "0036": ((8, 10, 40), (9, 50, 90), (12, 100, 199)),
}
SMG_PARTS = {"0001": "train", "0031": "validate", "0036": "test"}


def smg(root: Path, *, videos: bool = True) -> Path:
    """Write one sample of each part of SMG, and return `root`."""
    for sample, part in SMG_PARTS.items():
        phase, name = 2 if part == "test" else 1, f"Sample{sample}"
        folder = root / f"smg_data_phase{phase}/smg_skeleton_{part}/{name}"
        write(folder / f"{name}_finelabels.csv", "".join(f"{a}, {b}, {c}\n" for a, b, c in SMG_ROWS[sample]))
        write(folder / f"{name}_data.csv", f"{SMG_FRAMES},28,4500\n")
        write(folder / f"{name}_skeleton.csv", (",".join(["0"] * 275) + "\n") * 3)
        path = root / f"SMG_RGB_Phase{phase}/smg_rgb_{part}/{name}/{name}_color.mp4"
        _video(path, videos, frames=SMG_FRAMES, fps=28, width=128, height=72)
    return root


def ucf101(root: Path, *, videos: bool = True) -> Path:
    """Write two classes of UCF101, one with two spellings, and return `root`."""
    train, test = [], []
    for folder, prefix, number in (("Archery", "Archery", 3), ("HandstandPushups", "HandStandPushups", 37)):
        for group in (1, 2, 8, 9):
            path = f"{folder}/v_{prefix}_g{group:02d}_c01.avi"
            _video(root / "UCF-101" / path, videos, frames=20, fps=25, width=80, height=60, codec="mpeg4")
            if group < 8:
                test.append(path)
            else:
                train.append(f"{path} {number}")
    write(root / "ucfTrainTestlist/trainlist01.txt", "\r\n".join(train))
    write(root / "ucfTrainTestlist/testlist01.txt", "\n".join(test) + "\n")
    return root


def hmdb51(root: Path, *, videos: bool = True) -> Path:
    """Write two classes of HMDB51 whose names hold odd characters, and return `root`."""
    for label in ("brush_hair", "wave"):
        names = [f"[a];b&c+{place} d_{label}_u_nm_np1_ba_goo_0.avi" for place in range(4)]
        for name in names:
            _video(root / label / name, videos, frames=20, fps=30, width=80, height=60, codec="mpeg4")
        lines = [f"{name} {flag} \n" for name, flag in zip(names, (1, 1, 2, 0), strict=True)]
        write(root / f"testTrainMulti_7030_splits/{label}_test_split1.txt", "".join(lines))
    return root


KINETICS_CLIPS = {  # id, class, first second
    "train": (("-abC_9x-0aZ", "air drumming", 84), ("_bbbbbbbbb0", "zumba", 0), ("AAAAAAAAAA1", "zumba", 3)),
    "val": (("ccccccccccc", "air drumming", 120), ("ddddddddddd", "zumba", 7)),
    "test": (("eeeeeeeeeee", "zumba", 30),),
}


def kinetics400(root: Path, *, table: bool = True, underscores: bool = False, videos: bool = True) -> Path:
    """Write two classes of Kinetics-400, one with a space in its folder, and return `root`."""
    for part, clips in KINETICS_CLIPS.items():
        labels = "" if part == "test" else "label,"
        lines = [f"{labels}youtube_id,time_start,time_end,split" + ("" if part == "test" else ",is_cc")]
        for name, label, start in clips:
            folder = label.replace(" ", "_") if underscores else label
            path = root / part / folder / f"{name}_{start:06d}_{start + 10:06d}.mp4"
            _video(path, videos, frames=20, fps=25, width=80, height=60)
            own = f"{name},{start},{start + 10},{part}"
            lines.append(own if part == "test" else f"{label},{own},0")
        if table:
            write(root / f"annotations/{part}.csv", "\n".join(lines) + "\n")
    return root


def _video(path: Path, real: bool, *, frames: int, fps: int, width: int, height: int, codec: str = "libx264") -> None:
    if real:
        write_video(path, frames=frames, fps=fps, width=width, height=height, codec=codec)
    else:
        write(path, "")
