"""Annotation files as large as the real ones, made from the published numbers. No videos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dataset_copies import write

from aplt.common.data.datasets.published import table

PARTS = ("train", "val", "test")


def labels_of(name: str, part: str) -> list[str]:
    """Return the published labels of a part, class after class, as the data set's files write them."""
    return [row["original"] for row in table(name) for _ in range(int(row[part]))]


def ma52(root: Path) -> Path:
    """Write the lists of MA-52 and return `root`: recordings 0 to 1078 in train and 171 to 1137 in val."""
    for part, first, recordings in (("train", 0, 1079), ("val", 171, 967)):
        lines = []
        for n, label in enumerate(labels_of("ma52", part)):
            recording = first + n % recordings
            lines.append(f"{recording % 186:04d}_{recording // 186:02d}_{first * 50 + n:04d}.mp4 {label}\r\n")
        write(root / f"{part}_list_videos.txt", "".join(lines))
    write(root / "test_list_videos.txt", "\r\n".join(f"test{n:04d}.mp4 0" for n in range(5586)))
    return root


def imigue(root: Path) -> Path:
    """Write a label file for each of the 355 videos of the challenges and return `root`."""
    rest = {"train": labels_of("imigue", "train"), "val": labels_of("imigue", "val"), "test": ["1"] * 4562}
    videos = table("imigue_videos")
    left = sum(row["part"] == "train" for row in videos)
    for row in videos:
        labels = rest[row["part"]]
        count = int(row["clips"] or 0)
        if not row["clips"]:
            count, left = len(labels) // left, left - 1
        video = f"{int(row['video']):04d}"
        write(root / video / f"{video}_label.csv", _rows(labels, count))
    return root


def smg(root: Path) -> Path:
    """Write a label file for each of the 40 samples of SMG and return `root`."""
    rest = {part: labels_of("smg", part) for part in PARTS}
    for row in table("smg_samples"):
        sample = f"Sample{int(row['sample']):04d}"
        write(root / sample / f"{sample}_finelabels.csv", _rows(rest[row["part"]], int(row["clips"])))
    return root


def ucf101(root: Path, *, fold: int, train: int, test: int) -> Path:
    """Write the lists of one split of UCF101 and return `root`."""
    kinds = [(row["name"], row["original"]) for row in table("ucf101")]
    for part, count in (("train", train), ("test", test)):
        lines = []
        for n in range(count):
            name, number = kinds[n % len(kinds)]
            path = f"{name}/v_{name}_g{8 if part == 'train' else 1:02d}_c{n}.avi"
            lines.append(f"{path} {number}" if part == "train" else path)
        write(root / f"{part}list{fold:02d}.txt", "\n".join(lines))
    return root


def hmdb51(root: Path) -> Path:
    """Write the lists of the first split of HMDB51 and return `root`."""
    for place, row in enumerate(table("hmdb51")):
        flags = [1] * 70 + [2] * 30 + [0] * (33 if place < 34 else 32)
        lines = (f"{n}_{row['name']}_0.avi {flag} \n" for n, flag in enumerate(flags))
        write(root / f"{row['name']}_test_split1.txt", "".join(lines))
    return root


def kinetics400(root: Path, *, per_class: int) -> Path:
    """Write a table of `per_class` validation clips of each class of Kinetics-400 and return `root`."""
    lines = [
        f"{row['name']},{int(row['number']):05d}_{n:05d},{n},{n + 10},val"
        for row in table("kinetics400")
        for n in range(per_class)
    ]
    write(root / "val.csv", "\n".join(["label,youtube_id,time_start,time_end,split", *lines]))
    return root


def _rows(labels: list[str], count: int) -> str:
    def lines() -> Iterator[str]:
        for n in range(count):
            yield f"{labels.pop()},{n * 50},{n * 50 + 40}\n"

    return "".join(lines())
