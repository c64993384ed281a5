"""What a data set is: how its lists are read, what is published of them, and which subsets papers take."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from aplt.common.data.comparison import Count
from aplt.common.data.files import some
from aplt.common.data.source import Part, SourceClass, SourceClip
from aplt.common.data.subsets import Subset
from aplt.common.errors import DataError


class Options(BaseModel):
    """What may be chosen when a data set is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exclude: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Classes to leave out, by their numbers in the whole data set, counted from 0."""


AnyOptions = TypeVar("AnyOptions", bound=Options)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the annotation files of a data set say."""

    clips: list[SourceClip]
    """All clips, also those whose video is not there: `video` is "" then."""
    classes: tuple[SourceClass, ...]
    """In the order of their numbers."""
    left_out: Mapping[Part, str] = field(default_factory=dict)
    """Parts that are not used, and why."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset(Generic[AnyOptions]):
    """One entry of the table of data sets."""

    title: str
    options: type[AnyOptions]
    read: Callable[[Path, AnyOptions], Listing]
    """Reads names and lists below a root, never a video. Raises DataError."""
    counts: Callable[[Listing, AnyOptions], list[Count]] | None = None
    """Compares with what is published; None where nothing is."""
    subsets: Mapping[str, Subset] = field(default_factory=dict)


NO_LABELS = "their labels are not public"


def class_names(clips: Sequence[SourceClip]) -> list[str]:
    """Return the sorted names of the classes that clips have."""
    return sorted({clip.label for clip in clips if clip.label is not None})


def named_classes(names: Sequence[str]) -> tuple[SourceClass, ...]:
    """Return classes that have a name and nothing else, numbered as they come."""
    return tuple(SourceClass(name=name, number=number, original=name) for number, name in enumerate(names))


def checked(clips: list[SourceClip], names: Sequence[str], where: str) -> list[SourceClip]:
    """Return the clips sorted by clip id.

    Raises:
        DataError: two clips have one id, two classes differ only in case, or a file name has control characters.
    """
    _refuse_clashes(names, f"classes of {where} differ only in case", "rename or merge them")
    broken = [clip.video for clip in clips if re.search(r"[\x00-\x1f]", clip.video)]
    if broken:
        raise DataError(f"{where} has file names with line breaks or control characters ({some(broken)}): rename them")
    by_id: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        by_id[clip.clip_id].append(clip.video or "a video that is not there")
    double = {clip_id: videos for clip_id, videos in by_id.items() if len(videos) > 1}
    if double:
        clip_id, videos = next(iter(sorted(double.items())))
        raise DataError(
            f"{len(double)} clip ids of {where} occur more than once, such as {clip_id!r} for {' and '.join(videos)}: "
            "keep one of them, or give them names that differ in more than the extension"
        )
    return sorted(clips, key=lambda clip: clip.clip_id)


def _refuse_clashes(names: Sequence[str], what: str, cure: str) -> None:
    by_folded: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_folded[name.casefold()].append(name)
    clashes = [" and ".join(map(repr, same)) for same in by_folded.values() if len(same) > 1]
    if clashes:
        raise DataError(f"{what} ({', '.join(clashes)}): {cure}")
