"""Clips that are parts of long recordings: tables of `class,start,end`, with frames counted from 0, both included."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from aplt.common.data.datasets.dataset import Options
from aplt.common.data.files import numbered_lines
from aplt.common.errors import DataError


class CutOptions(Options):
    """Options of recordings that clips are cut from."""

    frame_offset: int = 0
    """Added to the frame numbers of the tables; -1 if yours count from 1."""
    margin: Annotated[int, Field(ge=0)] = 0
    """Frames that a clip gets in addition, before its start and after its end."""

    def frames(self, start: int, end: int) -> tuple[int, int]:
        """Return the first and the last frame of a clip whose row says start and end."""
        first = max(0, start + self.frame_offset - self.margin)
        return first, max(first, end + self.frame_offset + self.margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table."""

    where: str
    """File and line, for messages."""
    place: int
    """From 0, without the header."""
    values: tuple[str, ...]
    label: str
    start: int
    end: int

    @property
    def reversed(self) -> bool:
        """Whether it ends before it starts: such rows are no clips."""
        return self.end < self.start


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a table with these columns, with or without a header line.

    Args:
        path: The table.
        columns: Their names; `class`, `start_frame` and `end_frame` are among them.

    Raises:
        DataError: the file cannot be read, a row has other columns, or a frame is not a whole number from 0.
    """
    label, start, end = (columns.index(name) for name in ("class", "start_frame", "end_frame"))
    rows: list[Row] = []
    for place, (line, text) in enumerate(numbered_lines(path)):
        values = [value.strip() for value in next(csv.reader(io.StringIO(text)))]
        where = f"{path}, line {line}"
        if len(values) != len(columns):
            raise DataError(f"{where}: {len(values)} values, expected {len(columns)}: {','.join(columns)}")
        if place == 0 and not is_whole(values[0]):
            continue  # the header
        frames = [values[start], values[end]]
        if not all(map(is_whole, frames)):
            raise DataError(f"{where}: frames {' and '.join(map(repr, frames))} are not whole numbers from 0")
        rows.append(
            Row(
                where=where,
                place=len(rows),
                values=tuple(values),
                label=values[label],
                start=int(frames[0]),
                end=int(frames[1]),
            )
        )
    return rows


def reversed_note(rows: Sequence[Row]) -> list[str]:
    """Return a line about the rows that end before they start, if there are any."""
    bad = [row for row in rows if row.reversed]
    if not bad:
        return []
    first = bad[0]
    return [
        f"{len(bad)} rows are left out, because they end before they start (such as {first.where}: "
        f"{first.start} to {first.end})"
    ]


def is_whole(value: str) -> bool:
    """Return whether a text is a whole number from 0."""
    return value.isascii() and value.isdigit()
