"""What is published of the data sets, from the tables in facts/: class names, and numbers to compare a copy with."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from aplt.common.data.comparison import Count
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


def part_counts(clips: Sequence[SourceClip], expected: Iterable[tuple[Part, int]]) -> list[Count]:
    """Compare the clips of every part; a test part that is not there at all is passed over."""
    found = Counter(clip.split for clip in clips)
    return [
        Count(table="clips per part", what=part, expected=number, found=found[part])
        for part, number in expected
        if part != "test" or found[part]
    ]


def class_counts(
    name: str, clips: Iterable[SourceClip], kinds: Sequence[SourceClass], parts: Iterable[Part]
) -> list[Count]:
    """Compare the clips of every class in the given parts with facts/<name>.csv."""
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


def recording_counts(name: str, clips: Sequence[SourceClip], noun: str) -> list[Count]:
    """Compare the clips of every recording with facts/<name>.csv; where only its part is published, that it has some.

    Recordings of a test part that is not there at all are passed over.
    """
    found = Counter(clip.recording for clip in clips)
    parts = {clip.split for clip in clips}
    counts = []
    for row in table(name):
        number = f"{int(row[noun]):04d}"
        if row["part"] == "test" and "test" not in parts:
            continue
        what = f"{row['part']}, {noun} {number}"
        if row["clips"]:
            count = Count(table=f"clips per {noun}", what=what, expected=int(row["clips"]), found=found[number])
        else:
            count = Count(table=f"{noun}s with clips", what=what, expected=1, found=min(1, found[number]))
        counts.append(count)
    return counts
