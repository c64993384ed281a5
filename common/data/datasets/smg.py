"""SMG: spontaneous micro-gestures of standing people, one long video per person, cut by tables.

`SampleNNNN_finelabels.csv` holds `class,start_frame,end_frame` without a header; classes count from 1, and 17 is what
is no micro-gesture. The video is `SampleNNNN_color.mp4`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import cast

from aplt.common.data.comparison import Count
from aplt.common.data.datasets import published
from aplt.common.data.datasets.cuts import CutOptions, Row, read_rows, reversed_note
from aplt.common.data.datasets.dataset import Dataset, Listing, checked
from aplt.common.data.files import Tree, archives_hint
from aplt.common.data.source import Part, SourceClip
from aplt.common.data.subsets import Subset
from aplt.common.errors import DataError

LABELS = re.compile(r"Sample\d{4}_finelabels\.csv")
COLUMNS = ("class", "start_frame", "end_frame")
SIZES: tuple[tuple[Part, int], ...] = (("train", 2452), ("val", 637), ("test", 610))


def _read(root: Path, options: CutOptions) -> Listing:
    tree = Tree(root)
    classes = published.classes("smg")
    names = {kind.original: kind.name for kind in classes}
    clips: list[SourceClip] = []
    rows: list[Row] = []
    for path in tree.list_files(LABELS):
        sample = path.name[len("Sample") :][:4]
        if sample not in _parts():
            raise DataError(f"{path}: {sample} is none of the 40 samples of SMG")
        part = _parts()[sample]
        video = tree.video(f"Sample{sample}_color", near=part)
        for row in read_rows(path, COLUMNS):
            rows.append(row)
            if row.label not in names:
                raise DataError(f"{row.where}: class {row.label!r} is not one of 1 to {len(classes)}")
            if row.reversed:
                continue
            start, end = options.frames(row.start, row.end)
            clips.append(
                SourceClip(
                    clip_id=f"smg_{sample}_{row.place}",
                    video=video,
                    label=names[row.label],
                    group=sample,
                    recording=sample,
                    split=part,
                    start=start,
                    end=end,
                )
            )
    if not rows:
        raise DataError(
            f"no labels lie below {root}: SMG needs Sample0001_finelabels.csv and so on anywhere below "
            f"data.root{archives_hint(root)}"
        )
    return Listing(
        clips=checked(clips, [kind.name for kind in classes], f"SMG in {root}"),
        classes=classes,
        notes=tuple(reversed_note(rows)),
    )


@cache
def _parts() -> dict[str, Part]:
    return {f"{int(row['sample']):04d}": cast("Part", row["part"]) for row in published.table("smg_samples")}


def _counts(listing: Listing, options: CutOptions) -> list[Count]:
    parts: tuple[Part, ...] = ("train", "val", "test")
    there = {clip.split for clip in listing.clips} | {"train", "val"}
    return [
        *published.part_counts(listing.clips, SIZES),
        *published.class_counts("smg", listing.clips, listing.classes, [part for part in parts if part in there]),
        *published.recording_counts("smg_samples", listing.clips, "sample"),
    ]


SMG = Dataset(
    title="SMG",
    options=CutOptions,
    read=_read,
    counts=_counts,
    subsets={"smg5": Subset(count=5, pool=("train", "val", "test"), numbers=(2, 4, 7, 8, 11))},
)
