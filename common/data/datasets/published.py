"""What is published of the data sets, from the tables in facts/: class names, and numbers to compare a copy with."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from aplt.common.data.datasets.dataset import Count
from aplt.common.data.source import Part, SourceClass, SourceClip

FACTS = Path(__file__).parent / "facts"


def table(name: str) -> list[dict[str, str]]:
    """Return the rows of facts/<name>.csv."""
    with (FACTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def classes(name: str) -> tuple[SourceClass, ...]:
    """Return all classes of a data set, in the order of their numbers."""
    return tuple(
        SourceClass(
            name=row["name"], number=int(row["number"]), original=row["original"], coarse=row.get("coarse") or ""
        )
        for row in table(name)
    )


def part_counts(clips: Iterable[SourceClip], expected: Iterable[tuple[Part, int]]) -> list[Count]:
    """Compare the clips of every part."""
    found = Counter(clip.split for clip in clips)
    return [Count(table="clips per part", what=part, expected=number, found=found[part]) for part, number in expected]


def class_counts(
    name: str, clips: Iterable[SourceClip], kinds: Sequence[SourceClass], parts: Sequence[Part]
) -> list[Count]:
    """Compare the clips of every class in every part of `parts` with facts/<name>.csv."""
    found = Counter((clip.label, clip.split) for clip in clips)
    return [
        Count(
            table="clips per class",
            what=f"{part}, class {kind.number} ({kind.name})",
            expected=int(row[part]),
            found=found[kind.name, part],
        )
        for part in parts
        for kind, row in zip(kinds, table(name), strict=True)
    ]
