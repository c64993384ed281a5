"""The data sets that can be read: one file each, and the table of them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from aplt.common.data.comparison import Comparison
from aplt.common.data.datasets.dataset import Dataset, Listing, Options
from aplt.common.data.datasets.folder import FOLDER
from aplt.common.data.datasets.hmdb51 import HMDB51
from aplt.common.data.datasets.imigue import IMIGUE
from aplt.common.data.datasets.kinetics400 import KINETICS400
from aplt.common.data.datasets.ma52 import MA52
from aplt.common.data.datasets.smg import SMG
from aplt.common.data.datasets.table import TABLE
from aplt.common.data.datasets.ucf101 import UCF101
from aplt.common.data.files import archives_hint, some
from aplt.common.data.source import Part, Source, SourceClass, SourceClip
from aplt.common.data.subsets import Subset, most_frequent
from aplt.common.errors import DataError

DATASETS: Mapping[str, Dataset[Any]] = {
    "ma52": MA52,
    "imigue": IMIGUE,
    "smg": SMG,
    "ucf101": UCF101,
    "hmdb51": HMDB51,
    "kinetics400": KINETICS400,
    "folder": FOLDER,
    "csv": TABLE,
}


def read_source(
    name: str,
    root: Path,
    *,
    subset: str | None = None,
    options: Mapping[str, object] | None = None,
    labels: Path | None = None,
    group_regex: str | None = None,
) -> Source:
    """Return the clips of a data set whose videos lie below `root`, and its classes. No video is opened.

    Args:
        name: A key of DATASETS.
        root: The folder that holds its files, at whatever depth.
        subset: One of the data set's subsets, or `top:K` for the K classes with most clips; None: all classes.
        options: Fields of the data set's options.
        labels: The table of data set csv.
        group_regex: Searched in file names for the subject, with the data sets folder and csv.

    Raises:
        DataError: no such data set, subset or option; lists that are missing or have faults; or no video at all.
    """
    dataset = _dataset(name)
    chosen = _options(name, options, labels, group_regex)
    rule = None if subset is None else _subset(name, subset)
    listing: Listing = dataset.read(root, chosen)
    known = [clip for clip in listing.clips if clip.split not in listing.left_out]
    notes = [*listing.notes, *_left_out(listing)]
    classes = _without(listing.classes, chosen)
    if rule is not None:
        classes, note = _choose(known, classes, rule, subset or "")
        notes.append(note)
    names = {kind.name for kind in classes}
    wanted = [clip for clip in known if clip.label is None or clip.label in names]
    missing = [clip for clip in wanted if not clip.video]
    if not wanted:
        raise DataError(f"{dataset.title} in {root} has no clip to use: its lists are empty, or all of it is left out")
    if len(missing) == len(wanted):
        raise DataError(
            f"none of the {len(missing)} clips that {dataset.title} lists has a video below {root} (such as "
            f"{missing[0].clip_id!r}): unpack the archives anywhere below it; `aplt data check {name} --root {root}` "
            f"compares the lists alone{archives_hint(root)}"
        )
    return Source(
        clips=[clip for clip in wanted if clip.video],
        classes=classes,
        notes=(*notes, *_missing(wanted, missing, root)),
        missing=tuple(clip.clip_id for clip in missing),
    )


def check_source(
    name: str,
    root: Path,
    *,
    options: Mapping[str, object] | None = None,
    labels: Path | None = None,
    group_regex: str | None = None,
) -> Comparison:
    """Compare what the annotation files below `root` say with the published numbers. Videos need not be there.

    The arguments are those of `read_source`.

    Raises:
        DataError: no such data set or option, or lists that are missing or have faults.
    """
    dataset = _dataset(name)
    chosen = _options(name, options, labels, group_regex)
    listing: Listing = dataset.read(root, chosen)
    listed = Counter(clip.split for clip in listing.clips)
    there = Counter(clip.split for clip in listing.clips if clip.video)
    missing: dict[Part, list[str]] = defaultdict(list)
    for clip in listing.clips:
        if there and not clip.video and clip.split not in listing.left_out:
            missing[clip.split].append(clip.clip_id)
    notes = [*listing.notes, *_left_out(listing)]
    if dataset.counts and "test" not in listed:
        notes.append("test: no list of it is there, so it was not compared")
    return Comparison(
        title=dataset.title,
        root=str(root),
        counts=tuple(dataset.counts(listing, chosen)) if dataset.counts else (),
        clips={part: (listed[part], there[part]) for part in get_args(Part) if part in listed},
        missing={part: tuple(ids) for part, ids in missing.items()},
        notes=tuple(notes),
    )


def _dataset(name: str) -> Dataset[Any]:
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r}: expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _options(name: str, given: Mapping[str, object] | None, labels: Path | None, group_regex: str | None) -> Options:
    kind = _dataset(name).options
    own = {key: value for key, value in (("labels", labels), ("group_regex", group_regex)) if value is not None}
    try:
        options: Options = kind.model_validate({**(given or {}), **own})
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"]))
        fault = "does not exist" if first["type"] == "extra_forbidden" else f"is {first['input']!r}: {first['msg']}"
        raise DataError(
            f"option {option} of data set {name} {fault}; its options are {', '.join(kind.model_fields)}"
        ) from None
    return options


def _subset(name: str, subset: str) -> Subset:
    subsets = _dataset(name).subsets
    if match := re.fullmatch(r"top:([1-9]\d*)", subset):
        return Subset(count=int(match[1]))
    if subset not in subsets:
        known = ", ".join([*subsets, "top:K"])
        raise DataError(f"data set {name} has no subset {subset!r}: expected {known} (top:K: its K largest classes)")
    return subsets[subset]


def _without(classes: Sequence[SourceClass], options: Options) -> tuple[SourceClass, ...]:
    unknown = sorted(set(options.exclude) - {kind.number for kind in classes})
    if unknown:
        raise DataError(f"option exclude names class {unknown[0]}, but there are only 0 to {len(classes) - 1}")
    return tuple(kind for kind in classes if kind.number not in options.exclude)


def _choose(
    clips: Sequence[SourceClip], classes: Sequence[SourceClass], rule: Subset, subset: str
) -> tuple[tuple[SourceClass, ...], str]:
    """Return the classes of a subset, and what was chosen."""
    try:
        numbers = most_frequent(
            clips, classes, count=rule.count, pool=rule.pool, exclude=rule.exclude, min_count=rule.min_count
        )
    except DataError as error:
        raise DataError(f"subset {subset}: {error}") from None
    note = f"subset {subset}: the {rule.count} classes with most clips are {' '.join(map(str, numbers))}"
    if rule.numbers not in (None, numbers):
        note += f", where complete lists give {' '.join(map(str, rule.numbers or ()))}"
    return tuple(kind for kind in classes if kind.number in numbers), note


def _left_out(listing: Listing) -> list[str]:
    count = Counter(clip.split for clip in listing.clips)
    return [
        f"{part or 'no part'}: {count[part]} clips are left out, because {reason}"
        for part, reason in listing.left_out.items()
        if count[part]
    ]


def _missing(wanted: Sequence[SourceClip], missing: Sequence[SourceClip], root: Path) -> list[str]:
    total = Counter(clip.split for clip in wanted)
    by_part: dict[Part, list[str]] = defaultdict(list)
    for clip in missing:
        by_part[clip.split].append(clip.clip_id)
    return [
        f"{part or 'no part'}: {len(ids)} of {total[part]} clips have no video below {root} ({some(ids)})"
        for part, ids in by_part.items()
    ]
