"""HMDB51: actions from films and the web, `<class>/<name>.avi`, three official splits.

`<class>_test_split<F>.txt` holds `<name>.avi <flag>` for every clip of the class: 1 for training, 2 for testing, 0 for
neither. Names may hold any character.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from aplt.common.data.comparison import Count
from aplt.common.data.datasets import published
from aplt.common.data.datasets.dataset import Dataset, Listing, checked
from aplt.common.data.datasets.ucf101 import FoldOptions
from aplt.common.data.files import Tree, archives_hint, numbered_lines
from aplt.common.data.source import Part, SourceClip
from aplt.common.errors import DataError

PARTS: dict[str, Part] = {"0": "", "1": "train", "2": "test"}
CLIPS, TRAIN, TEST = 6766, 70, 30  # all; per class


class HmdbOptions(FoldOptions):
    """Options of HMDB51."""

    pool: Literal["official", "all"] = "official"
    """official: train with the clips of the split; all: with every clip that is not for testing, as some papers do."""


def _read(root: Path, options: HmdbOptions) -> Listing:
    tree = Tree(root)
    classes = published.classes("hmdb51")
    names = {kind.name for kind in classes}
    ending = f"_test_split{options.fold}.txt"
    clips: list[SourceClip] = []
    for path in tree.list_files(re.compile(".+" + re.escape(ending))):
        label = path.name.removesuffix(ending)
        if label not in names:
            raise DataError(f"{path} is of class {label!r}, which is none of the {len(names)} of HMDB51")
        for line, text in numbered_lines(path):
            file, _, flag = text.rpartition(" ")
            if not file or flag not in PARTS:
                raise DataError(f"{path}, line {line}: {text!r} is not the name of a video and 0, 1 or 2")
            stem = PurePosixPath(file.strip()).stem
            part = "train" if flag == "0" and options.pool == "all" else PARTS[flag]
            clips.append(SourceClip(clip_id=stem, video=tree.video(stem, near=label), label=label, split=part))
    if not clips:
        raise DataError(
            f"no <class>{ending} lies below {root}: unpack the lists of HMDB51's splits anywhere below "
            f"data.root{archives_hint(root)}"
        )
    times = Counter(clip.clip_id for clip in clips)  # a name is unique in the folder of its class, not beyond it
    clips = [replace(c, clip_id=f"{c.label}/{c.clip_id}") if times[c.clip_id] > 1 else c for c in clips]
    return Listing(
        clips=checked(clips, [kind.name for kind in classes], f"HMDB51 in {root}"),
        classes=classes,
        left_out={"": f"split {options.fold} uses them for neither part (option pool: all trains with them)"},
    )


def _counts(listing: Listing, options: HmdbOptions) -> list[Count]:
    found = Counter((clip.label, clip.split) for clip in listing.clips)
    expected: list[tuple[Part, int]] = [("test", TEST)]
    if options.pool == "official":
        expected.append(("train", TRAIN))
    return [
        Count(table="clips of all classes", what="all", expected=CLIPS, found=len(listing.clips)),
        *(
            Count(table="clips per class", what=f"{part}, {kind.name}", expected=number, found=found[kind.name, part])
            for part, number in expected
            for kind in listing.classes
        ),
    ]


HMDB51 = Dataset(title="HMDB51", options=HmdbOptions, read=_read, counts=_counts)
