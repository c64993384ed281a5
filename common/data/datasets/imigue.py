"""iMiGUE: micro-gestures at press conferences, cut from long videos.

Two forms of labels: one table with a header and 11 columns for all videos, or one `NNNN_label.csv` per video with
`class,start_frame,end_frame` and no header. Classes count from 1; 99 is what is no micro-gesture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from aplt.common.data.comparison import Count
from aplt.common.data.datasets import published
from aplt.common.data.datasets.cuts import CutOptions, Row, is_whole, read_rows, reversed_note
from aplt.common.data.datasets.dataset import NO_LABELS, Dataset, Listing, checked
from aplt.common.data.files import Tree, archives_hint, some
from aplt.common.data.source import Part, SourceClip
from aplt.common.data.subsets import Subset
from aplt.common.errors import DataError

PER_VIDEO = re.compile(r"\d+_label\.csv")
PER_VIDEO_COLUMNS = ("class", "start_frame", "end_frame")
ALL_VIDEOS = re.compile(r"labels.*\.csv")
ALL_VIDEOS_COLUMNS = (
    *("video_id", "label_id", "start_time", "start_frame", "end_time", "end_frame", "class"),
    *("subject_id", "subject_gender", "subject_nationality", "win_or_lose"),
)
OUTSIDE_CHALLENGE = (218, 319, 347, 348)
"""Training videos of the first release whose skeletons are unusable; the challenges leave them out."""
OUTSIDE_CLIPS = 266
SIZES: tuple[tuple[Part, int], ...] = (("train", 12893), ("val", 777), ("test", 4562))


class ImigueOptions(CutOptions):
    """Options of iMiGUE."""

    test_labels: bool = False
    """Whether the classes in the label files of single test videos are real; those of the challenges are not. In the
    table of all videos they always are."""


@dataclass(frozen=True, slots=True)
class _Instance:
    video: int
    place: int
    """In its video, from 0."""
    subject: str
    row: Row


def _read(root: Path, options: ImigueOptions) -> Listing:
    tree = Tree(root)
    classes = published.classes("imigue")
    instances, complete = _instances(tree)
    left_out: dict[Part, str] = {} if complete or options.test_labels else {"test": NO_LABELS}
    names = {kind.original: kind.name for kind in classes}
    names["32"] = names["99"]  # the official reader makes 32 of 99 before it counts from 0
    parts = _parts()
    clips = []
    for instance in instances:
        part, row = parts[instance.video], instance.row
        if row.label not in names and part not in left_out:
            raise DataError(f"{row.where}: class {row.label!r} is not one of 1 to 32 or 99")
        if row.reversed:
            continue
        number = f"{instance.video:04d}"
        start, end = options.frames(row.start, row.end)
        clips.append(
            SourceClip(
                clip_id=f"imigue_{number}_{instance.place}",
                video=tree.video(number, near=part),
                label=names.get(row.label),
                group=instance.subject,
                recording=number,
                split=part,
                start=start,
                end=end,
            )
        )
    notes = reversed_note([instance.row for instance in instances])
    if not complete:
        notes.append("the label files of single videos do not name subjects: clips have no group")
    return Listing(
        clips=checked(clips, [kind.name for kind in classes], f"iMiGUE in {root}"),
        classes=classes,
        left_out=left_out,
        notes=tuple(notes),
    )


def _instances(tree: Tree) -> tuple[list[_Instance], bool]:
    """Return what the labels name, and whether they are the table of all videos."""
    tables = tree.list_files(ALL_VIDEOS)
    if len(tables) > 1:
        raise DataError(f"{tree.root} holds {len(tables)} tables of labels ({some(list(map(str, tables)))}): keep one")
    if tables:
        rows = read_rows(tables[0], ALL_VIDEOS_COLUMNS)
        return [_instance(row, row.values[0], row.values[1], row.values[7]) for row in rows], True
    instances = []
    files = tree.list_files(PER_VIDEO)
    for path in files:
        video = path.name.removesuffix("_label.csv")
        instances += [_instance(row, video, str(row.place + 1)) for row in read_rows(path, PER_VIDEO_COLUMNS)]
    if not files:
        raise DataError(
            f"no labels lie below {tree.root}: iMiGUE needs labels_20200831.csv, or 0001_label.csv and so on, anywhere "
            f"below data.root{archives_hint(tree.root)}"
        )
    return instances, False


def _instance(row: Row, video: str, label_id: str, subject: str = "") -> _Instance:
    if not (is_whole(video) and int(video) in _parts()):
        raise DataError(f"{row.where}: {video!r} is none of the 359 videos of iMiGUE")
    if not is_whole(label_id) or label_id == "0":
        raise DataError(f"{row.where}: label_id {label_id!r} is not a whole number from 1")
    return _Instance(int(video), int(label_id) - 1, subject, row)


@cache
def _parts() -> dict[int, Part]:
    """Return the part of every video: those of the challenges, and the rest of the training videos."""
    parts = {int(row["video"]): cast("Part", row["part"]) for row in published.table("imigue_videos")}
    return {**parts, **dict.fromkeys(OUTSIDE_CHALLENGE, "train")}


def _counts(listing: Listing, options: ImigueOptions) -> list[Count]:
    outside = {f"{video:04d}" for video in OUTSIDE_CHALLENGE}
    inside = [clip for clip in listing.clips if clip.recording not in outside]
    counts = [
        *published.part_counts(inside, SIZES),
        *published.class_counts("imigue", inside, listing.classes, ("train", "val")),
        *published.recording_counts("imigue_videos", inside, "video"),
    ]
    if len(inside) < len(listing.clips):
        found = len(listing.clips) - len(inside)
        what = f"videos {', '.join(map(str, OUTSIDE_CHALLENGE))} together"
        counts.append(Count(table="clips per video", what=what, expected=OUTSIDE_CLIPS, found=found))
    return counts


IMIGUE = Dataset(
    title="iMiGUE",
    options=ImigueOptions,
    read=_read,
    counts=_counts,
    subsets={"imigue11": Subset(count=11, exclude=(31,), numbers=(1, 7, 10, 16, 19, 21, 22, 23, 25, 28, 30))},
)
