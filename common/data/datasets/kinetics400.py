"""Kinetics-400: actions in web videos, `<part>/<class name>/<youtube id>_<start:06d>_<end:06d>.mp4`.

Tables have the columns `label,youtube_id,time_start,time_end,split`, in seconds; those of the test part may lack the
labels. Without a table, folders name part and class. Videos vanish from the web: no two copies hold the same.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from aplt.common.data.comparison import Count
from aplt.common.data.datasets import published
from aplt.common.data.datasets.cuts import is_whole
from aplt.common.data.datasets.dataset import NO_LABELS, Dataset, Listing, Options, checked
from aplt.common.data.files import Tree, archives_hint
from aplt.common.data.source import Part, SourceClip
from aplt.common.errors import DataError

COLUMNS = ("youtube_id", "time_start", "time_end")
WORDS: tuple[tuple[str, Part], ...] = (("train", "train"), ("val", "val"), ("test", "test"))  # validate, val_256, ...
SIZES: dict[Part, int] = {"train": 246535, "val": 19907, "test": 38685}
PER_CLASS: dict[Part, int] = {"val": 50, "test": 100}


def _read(root: Path, options: Options) -> Listing:
    tree = Tree(root)
    classes = published.classes("kinetics400")
    names = {kind.name for kind in classes}
    clips: list[SourceClip] = []
    for path in tree.list_files(re.compile(r".+\.csv")):
        clips += _table(tree, path, names)
    clips = list(dict.fromkeys(clips))  # tables of one part and of all parts may lie side by side
    notes = []
    if not clips:
        clips = _folders(tree, names)
        notes = ["no table is there: parts and classes are those of the folders"]
    if not clips:
        raise DataError(
            f"{root} holds neither a table of Kinetics-400 (columns {', '.join(COLUMNS)}) nor videos in "
            f"<part>/<class name>/: unpack them anywhere below data.root{archives_hint(root)}"
        )
    labelled = {clip.split for clip in clips if clip.label is not None}
    return Listing(
        clips=checked(clips, [kind.name for kind in classes], f"Kinetics-400 in {root}"),
        classes=classes,
        left_out={} if "test" in labelled else {"test": NO_LABELS},
        notes=tuple(notes),
    )


def _table(tree: Tree, path: Path, names: set[str]) -> list[SourceClip]:
    """Return the clips of a table; none if it is a table of something else."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not set(COLUMNS) <= set(rows.fieldnames or ()):
                return []
            part = _part(path.name)
            return [_clip(tree, row, f"{path}, line {rows.line_num}", part, names) for row in rows]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a UTF-8 CSV table ({error}): is it the original one?") from None


def _clip(tree: Tree, row: dict[str, str], where: str, part: Part, names: set[str]) -> SourceClip:
    part = _part(row.get("split") or "") or part
    label = _class(row.get("label") or "")
    times = [row["time_start"] or "", row["time_end"] or ""]
    if not row["youtube_id"] or not part or not all(map(is_whole, times)):
        raise DataError(f"{where}: expected a youtube_id, times in whole seconds, and train, val or test as split")
    if label not in names and (label or part != "test"):
        raise DataError(f"{where}: {label!r} is none of the {len(names)} classes of Kinetics-400")
    stem = f"{row['youtube_id']}_{int(times[0]):06d}_{int(times[1]):06d}"
    return SourceClip(
        clip_id=stem,
        video=tree.video(stem, near=part) or tree.video(row["youtube_id"], near=part),
        label=label or None,
        split=part,
    )


def _folders(tree: Tree, names: set[str]) -> list[SourceClip]:
    clips = []
    for video in tree.videos():
        path = PurePosixPath(video)
        label = _class(path.parent.name)
        parts = {_part(name) for name in path.parts[:-2]} - {""}
        if label not in names or len(parts) != 1:
            raise DataError(
                f"{tree.root / video}: without a table, videos must lie in <part>/<class name>/ with one of the "
                f"{len(names)} class names of Kinetics-400"
            )
        clips.append(SourceClip(clip_id=path.stem, video=video, label=label, split=parts.pop()))
    return clips


def _part(text: str) -> Part:
    return next((part for word, part in WORDS if word in text.lower()), "")


def _class(text: str) -> str:
    return " ".join(text.replace("_", " ").split())


def _counts(listing: Listing, options: Options) -> list[Count]:
    sizes = Counter(clip.split for clip in listing.clips)
    found = Counter((clip.label, clip.split) for clip in listing.clips if clip.label is not None)
    return [
        *(
            Count(table="clips per part", what=part, expected=number, found=sizes[part], at_most=True)
            for part, number in SIZES.items()
        ),
        *(
            Count(
                table="clips per class",
                what=f"{part}, class {kind.number} ({kind.name})",
                expected=number,
                found=found[kind.name, part],
                at_most=True,
            )
            for part, number in PER_CLASS.items()
            for kind in listing.classes
        ),
    ]


KINETICS400 = Dataset(title="Kinetics-400", options=Options, read=_read, counts=_counts)
