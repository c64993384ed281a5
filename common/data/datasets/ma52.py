"""MA-52: whole-body micro-actions, one file per clip, named by text lists.

Lists hold `<file>.mp4 <number>` with numbers from 0, `label_name.txt` holds `<number> TAB <name>`. Labels of the test
list are not public: every line has a 0.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from aplt.common.data.comparison import Count
from aplt.common.data.datasets import published
from aplt.common.data.datasets.dataset import NO_LABELS, Dataset, Listing, Options, checked
from aplt.common.data.files import Tree, archives_hint, numbered_lines
from aplt.common.data.source import Part, SourceClass, SourceClip
from aplt.common.data.subsets import Subset
from aplt.common.errors import DataError

NAMES = "label_name.txt"
LISTS: dict[Part, str] = {part: f"{part}_list_videos.txt" for part in ("train", "val", "test")}
SIZES: dict[Part, int] = {"train": 11250, "val": 5586, "test": 5586}
CHALLENGE_TEST = 1138  # the test set of the challenges of 2024 and 2025
SPREAD: dict[Part, tuple[int, int]] = {"train": (186, 1079), "val": (186, 967)}  # subjects, recordings
STEM = re.compile(r"(\d+)_(\d+)_\d+")  # subject, recording, clip


def _read(root: Path, options: Options) -> Listing:
    tree = Tree(root)
    classes = _classes(tree)
    clips: list[SourceClip] = []
    for part, name in LISTS.items():
        path = tree.list_file(name)
        if path is not None:
            clips += _clips(tree, path, part, classes)
        elif part != "test":
            raise DataError(
                f"no {name} lies below {root}: MA-52 needs {LISTS['train']} and {LISTS['val']} (they are in its public "
                f"repository) anywhere below data.root{archives_hint(root)}"
            )
    tested = {clip.label for clip in clips if clip.split == "test"}
    left_out: dict[Part, str] = {"test": NO_LABELS} if tested == {classes[0].name} else {}
    return Listing(
        clips=checked(clips, [kind.name for kind in classes], f"MA-52 in {root}"),
        classes=classes,
        left_out=left_out,
    )


def _classes(tree: Tree) -> tuple[SourceClass, ...]:
    known = published.classes("ma52")
    path = tree.list_file(NAMES)
    if path is None:
        return known
    names: dict[str, str] = {}
    for line, text in numbered_lines(path):
        number, tab, name = text.partition("\t")
        if not tab or number.strip() in names:
            raise DataError(f"{path}, line {line}: {text!r} is not a new number, a TAB and a name")
        names[number.strip()] = name.strip()
    if set(names) != {kind.original for kind in known}:
        raise DataError(f"{path} names {len(names)} classes: expected each of 0 to {len(known) - 1} once")
    return tuple(
        SourceClass(name=names[kind.original], number=kind.number, original=kind.original, coarse=kind.coarse)
        for kind in known
    )


def _clips(tree: Tree, path: Path, part: Part, classes: tuple[SourceClass, ...]) -> list[SourceClip]:
    names = {kind.original: kind.name for kind in classes}
    clips = []
    for line, text in numbered_lines(path):
        file, _, label = text.rpartition(" ") if " " in text else text.rpartition("\t")
        if not file or label not in names:
            raise DataError(
                f"{path}, line {line}: {text!r} is not the name of a video and a class from 0 to {len(names) - 1}"
            )
        stem = PurePosixPath(file.strip()).stem
        match = STEM.fullmatch(stem)
        clips.append(
            SourceClip(
                clip_id=stem,
                video=tree.video(stem, near=part),
                label=names[label],
                group=match[1] if match else "",
                recording=f"{match[1]}_{match[2]}" if match else "",
                split=part,
            )
        )
    return clips


def _counts(listing: Listing, options: Options) -> list[Count]:
    tested = sum(clip.split == "test" for clip in listing.clips)
    sizes = SIZES | {"test": CHALLENGE_TEST if tested == CHALLENGE_TEST else SIZES["test"]}
    return [
        *published.part_counts(listing.clips, sizes.items()),
        *published.class_counts("ma52", listing.clips, listing.classes, ("train", "val")),
        *_spread(listing),
    ]


def _spread(listing: Listing) -> list[Count]:
    """Compare how many subjects and recordings the clips of a part come from."""
    counts = []
    for part, expected in SPREAD.items():
        clips = [clip for clip in listing.clips if clip.split == part]
        found = len({clip.group for clip in clips}), len({clip.recording for clip in clips})
        counts += [
            Count(table="subjects and recordings", what=f"{part}, {noun}", expected=published_number, found=number)
            for noun, published_number, number in zip(("subjects", "recordings"), expected, found, strict=True)
        ]
    return counts


MA52 = Dataset(
    title="MA-52",
    options=Options,
    read=_read,
    counts=_counts,
    subsets={"ma12": Subset(count=12, numbers=(5, 7, 8, 9, 10, 17, 21, 22, 23, 31, 48, 49))},
)
