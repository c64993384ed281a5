"""Subsets of a data set's classes: the most frequent ones, as papers take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from aplt.common.data.source import Part, SourceClass, SourceClip
from aplt.common.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A rule for choosing classes, and what it gives on the complete lists of the data set."""

    count: int
    pool: Collection[Part] = ("train", "val", "")
    """The parts whose clips are counted."""
    exclude: Collection[int] = ()
    """Numbers of classes that are never chosen."""
    min_count: int = 1
    numbers: tuple[int, ...] | None = None
    """The classes that complete lists give, if that is known."""


def most_frequent(
    clips: Iterable[SourceClip],
    classes: Iterable[SourceClass],
    *,
    count: int,
    pool: Collection[Part] = ("train", "val", ""),
    exclude: Collection[int] = (),
    min_count: int = 1,
) -> tuple[int, ...]:
    """Return the numbers of the `count` classes with most clips, ascending. Of equally frequent ones, the lower wins.

    Args:
        clips: Those without a label are not counted.
        classes: To choose from.
        count: How many.
        pool: The parts whose clips are counted.
        exclude: Numbers of classes that are never chosen.
        min_count: Clips that a class needs at least.

    Raises:
        DataError: fewer classes have that many clips.
    """
    clips_of = Counter(clip.label for clip in clips if clip.split in pool)
    found = [
        (-clips_of[kind.name], kind.number)
        for kind in classes
        if kind.number not in exclude and clips_of[kind.name] >= min_count
    ]
    if len(found) < count:
        raise DataError(f"{count} classes were asked for, but only {len(found)} have {min_count} clips or more")
    return tuple(sorted(number for _, number in sorted(found)[:count]))
