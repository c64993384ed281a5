"""UCF101: sports and everyday actions, `<Class>/v_<Class>_gGG_cCC.avi`, three official splits.

`trainlist0F.txt` holds `<Class>/<file>.avi <number>` with numbers from 1, `testlist0F.txt` only the paths. Clips of one
group (GG) come from one video and stay together.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Literal

from aplt.common.data.comparison import Count
from aplt.common.data.datasets import published
from aplt.common.data.datasets.dataset import Dataset, Listing, Options, checked
from aplt.common.data.files import Tree, archives_hint, numbered_lines
from aplt.common.data.source import Part, SourceClass, SourceClip
from aplt.common.errors import DataError

LISTS: dict[Part, str] = {"train": "trainlist{:02d}.txt", "test": "testlist{:02d}.txt"}
SIZES = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
SPELLINGS = ("HandStandPushups", "HandstandPushups")  # the class's files have one, its folder has the other
GROUP = re.compile(r"_g(\d+)_c\d+$")


class FoldOptions(Options):
    """Options of data sets with three official splits."""

    fold: Literal[1, 2, 3] = 1
    """The official split."""


def _read(root: Path, options: FoldOptions) -> Listing:
    tree = Tree(root)
    classes = published.classes("ucf101")
    by_name = {kind.name.casefold(): kind for kind in classes}
    clips = []
    for part, pattern in LISTS.items():
        name = pattern.format(options.fold)
        path = tree.list_file(name)
        if path is None:
            raise DataError(
                f"no {name} lies below {root}: unpack the lists of UCF101's splits anywhere below "
                f"data.root{archives_hint(root)}"
            )
        for line, text in numbered_lines(path):
            clips.append(_clip(tree, f"{path}, line {line}", text, part, by_name))
    return Listing(clips=checked(clips, [kind.name for kind in classes], f"UCF101 in {root}"), classes=classes)


def _clip(tree: Tree, where: str, text: str, part: Part, by_name: dict[str, SourceClass]) -> SourceClip:
    file, _, number = text.rpartition(" ") if part == "train" else (text, "", "")
    path = PurePosixPath(file)
    kind = by_name.get(path.parent.name.casefold())
    if kind is None or (part == "train" and number != kind.original):
        expected = "<Class>/<file> <number>" if part == "train" else "<Class>/<file>"
        raise DataError(f"{where}: {text!r} is not {expected} with one of the {len(by_name)} classes and its number")
    group = GROUP.search(path.stem)
    return SourceClip(
        clip_id=path.stem,
        video=_video(tree, path.stem, kind.name),
        label=kind.name,
        group=f"g{group[1]}" if group else "",
        split=part,
    )


def _video(tree: Tree, stem: str, near: str) -> str:
    first, second = SPELLINGS
    spellings = [stem, stem.replace(first, second), stem.replace(second, first)]
    return next((video for spelling in spellings if (video := tree.video(spelling, near=near))), "")


def _counts(listing: Listing, options: FoldOptions) -> list[Count]:
    train, test = SIZES[options.fold]
    return published.part_counts(listing.clips, [("train", train), ("test", test)])


UCF101 = Dataset(title="UCF101", options=FoldOptions, read=_read, counts=_counts)
