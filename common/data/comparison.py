"""A copy of a data set beside what is published of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from aplt.common.data.source import Part

SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A published number beside the one that was found."""

    table: str
    """What it belongs to, such as "clips per class"."""
    what: str
    expected: int
    found: int
    at_most: bool = False
    """Whether fewer is no fault."""

    @property
    def agrees(self) -> bool:
        """Whether the number found is the published one."""
        return self.found <= self.expected if self.at_most else self.found == self.expected


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the annotation files of a data set say, compared with the published numbers; and which videos are there."""

    title: str
    root: str
    counts: tuple[Count, ...]
    """All that were compared; none where nothing is published."""
    clips: Mapping[Part, tuple[int, int]]
    """Clips that the lists name, and those of them that have their video, by part."""
    missing: Mapping[Part, tuple[str, ...]]
    """Clips without a video, by part; only of parts that are used, and only if any clip has its video."""
    notes: tuple[str, ...]

    @property
    def differences(self) -> tuple[Count, ...]:
        """The counts that differ from the published ones."""
        return tuple(count for count in self.counts if not count.agrees)

    @property
    def ok(self) -> bool:
        """Whether the lists agree with what is published, and no video of clips that are used is missing."""
        return not self.differences and not self.missing

    def lines(self, *, shown: int = SHOWN) -> list[str]:
        """Return what people read: a line per table, the first differences, missing videos per part, and a verdict."""
        lines = [f"{self.title} in {self.root}"]
        for table, number in Counter(count.table for count in self.counts).items():
            wrong = [count for count in self.differences if count.table == table]
            lines.append(
                f"{table}: " + (f"{len(wrong)} of {number} differ" if wrong else f"{number} of {number} agree")
            )
            lines += _first([_difference(count) for count in wrong], shown)
        for part, (listed, there) in self.clips.items():
            lines.append(f"{part or 'no part'}: {listed} clips listed, {there} have their video")
            lines += _first([f"no video: {clip_id}" for clip_id in self.missing.get(part, ())], shown)
        lines += [f"note: {note}" for note in self.notes]
        return [*lines, self._verdict()]

    def _verdict(self) -> str:
        faults = []
        if self.differences:
            faults.append(f"{len(self.differences)} of {len(self.counts)} numbers differ from the published")
        if missing := sum(map(len, self.missing.values())):
            faults.append(f"{missing} clips have no video")
        return "; ".join(faults) or "OK"


def _first(lines: list[str], shown: int) -> list[str]:
    more = [f"  ... and {len(lines) - shown} more"] if len(lines) > shown else []
    return [*(f"  {line}" for line in lines[:shown]), *more]


def _difference(count: Count) -> str:
    return f"{count.what}: {count.found}, published {'at most ' if count.at_most else ''}{count.expected}"
