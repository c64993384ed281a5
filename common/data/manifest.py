"""The manifest: one row per clip, without labels. A clip's row number is its name in every other array.

It is kept in columns: a million objects would take ten times the memory of a million clips.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, SupportsIndex, cast, get_args, overload

import numpy as np
from numpy.typing import NDArray

from aplt.common.data.source import Part
from aplt.common.errors import DataError

_CHUNK_BYTES = 2**16  # what becomes of it fits in the caches of a processor: a third faster than 4 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One row of manifest.csv."""

    clip_id: str
    video: str
    """Path of the file, relative to the data root, with forward slashes."""
    start: int | None = None
    """First frame that belongs to the clip, counted from 0; None: the first of the file."""
    end: int | None = None
    """Last frame that belongs to the clip; None: the last of the file."""
    fps: float | None = None
    nframes: int | None = None
    """Frames of the whole file. Like `fps`, `width` and `height` unknown (None) where the file cannot be decoded."""
    width: int | None = None
    """Of the file, upright, in pixels."""
    height: int | None = None
    group: str = ""
    """The subject, if known: splits without common subjects keep it on one side."""
    recording: str = ""
    split: Part = ""
    """The part of the data set that the clip was delivered in."""


COLUMNS = tuple(field.name for field in fields(Clip))
# What stands for None in the columns of numbers.
_UNKNOWN: dict[str, float] = {"start": -1, "end": -1, "fps": math.nan, "nframes": -1, "width": -1, "height": -1}
_REPEATED = {"group", "recording", "split"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Manifest(Sequence[Clip]):
    """All N clips, a column for every field of `Clip`; an unknown `fps` is NaN, other unknown numbers are -1."""

    clip_id: list[str]
    video: list[str]
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    fps: NDArray[np.float64]
    nframes: NDArray[np.int32]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    group: list[str]
    recording: list[str]
    split: list[Part]

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> Self:
        """Return these clips as columns."""
        rows = list(clips)
        columns: dict[str, Any] = {name: [getattr(clip, name) for clip in rows] for name in COLUMNS}
        for name, unknown in _UNKNOWN.items():
            values = [unknown if value is None else value for value in columns[name]]
            columns[name] = np.array(values, dtype=_dtype(name))
        return cls(**columns)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Frames of every clip [N]; -1 where the file could not be decoded."""
        last = np.where(self.end < 0, self.nframes - 1, np.minimum(self.end, self.nframes - 1))
        return np.where(self.nframes < 0, -1, np.maximum(0, last - np.maximum(0, self.start) + 1)).astype(np.int32)

    def __len__(self) -> int:
        return len(self.clip_id)

    @overload
    def __getitem__(self, row: SupportsIndex) -> Clip: ...
    @overload
    def __getitem__(self, row: slice) -> Manifest: ...
    def __getitem__(self, row: SupportsIndex | slice) -> Clip | Manifest:
        columns = {name: getattr(self, name)[row] for name in COLUMNS}
        if isinstance(row, slice):
            return Manifest(**columns)
        for name in _UNKNOWN:
            columns[name] = _known(columns[name].item())
        return Clip(**columns)

    def __iter__(self) -> Iterator[Clip]:
        return (Clip(**dict(zip(COLUMNS, row, strict=True))) for row in self._rows())

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the fields of every clip, in the order of `COLUMNS`."""
        columns = [getattr(self, name) for name in COLUMNS]
        return zip(
            *(map(_known, column.tolist()) if isinstance(column, np.ndarray) else column for column in columns),
            strict=True,
        )


def manifest_text(clips: Manifest | Iterable[Clip]) -> str:
    """Return the contents of manifest.csv."""
    manifest = clips if isinstance(clips, Manifest) else Manifest.of(clips)
    return csv_text(COLUMNS, manifest._rows())


def read_manifest(path: Path) -> Manifest:
    """Return the rows of manifest.csv. Raises DataError where it is not one."""
    texts: dict[str, list[str]] = {name: [] for name in COLUMNS if name not in _UNKNOWN}
    numbers: dict[str, list[NDArray[Any]]] = {name: [np.empty(0, _dtype(name))] for name in _UNKNOWN}
    value_of = {name: _Values(name) for name in _UNKNOWN}
    same: dict[str, str] = {}  # a group is one object, however many clips have it
    for chunk in _chunks(path, COLUMNS):
        columns = dict(zip(COLUMNS, chunk, strict=True))
        for name, column in texts.items():
            cells = columns[name]
            column += map(same.setdefault, cells, cells) if name in _REPEATED else cells
        for name, parts in numbers.items():
            try:
                values = map(value_of[name].__getitem__, columns[name])
                parts.append(np.fromiter(values, _dtype(name), len(columns[name])))
            except (ValueError, OverflowError) as error:
                raise DataError(f"{path}: the column {name} is damaged ({error}): prepare the data again") from None
    for part in set(texts["split"]) - set(get_args(Part)):
        raise DataError(f"{path}: the column split is damaged (there is no part {part!r}): prepare the data again")
    arrays = {name: np.concatenate(parts) for name, parts in numbers.items()}
    return Manifest(**cast("dict[str, Any]", texts | arrays))


def csv_text(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a CSV table: header line, LF line ends, None as an empty cell."""
    buffer = _LineFeeds()
    writer = csv.writer(buffer, lineterminator="\r\n")  # quotes what it may end its own lines with
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def read_columns(path: Path, header: Sequence[str]) -> list[list[str]]:
    """Return the columns of a table that `csv_text` wrote. Raises DataError if it has others or cannot be read."""
    columns: list[list[str]] = [[] for _ in header]
    for cells in _chunks(path, header):
        for column, part in zip(columns, cells, strict=True):
            column += part
    return columns


def read_text(path: Path) -> str:
    """Return the text of a prepared file. Raises DataError if it is not there."""
    try:
        # File names need not be UTF-8: surrogateescape brings their bytes through unchanged.
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): prepare the data again") from None


def write_text(path: Path, text: str) -> None:
    """Write a file such that a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _chunks(path: Path, header: Sequence[str]) -> Iterator[list[list[str]]]:
    """Yield a table in pieces of whole rows, by column."""
    try:
        with path.open("rb") as file:
            found = file.readline().decode("utf-8", "surrogateescape").rstrip("\n").split(",")
            if found != list(header):
                raise DataError(f"{path} has the columns {found}, expected {list(header)}: prepare the data again")
            while data := file.read(_CHUNK_BYTES):
                data += file.readline()
                while data.count(b'"') % 2 and (line := file.readline()):  # inside of a quoted cell
                    data += line
                yield _cells(data.decode("utf-8", "surrogateescape"), len(header), path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): prepare the data again") from None


def _cells(text: str, width: int, path: Path) -> list[list[str]]:
    """Return the columns of these rows. Splitting takes a third of the time of the csv module, which knows quotes."""
    if '"' in text:
        rows = list(csv.reader(io.StringIO(text, newline="")))
        if all(len(row) == width for row in rows):
            return [list(column) for column in zip(*rows, strict=True)]
    else:
        cells = text.removesuffix("\n").replace("\n", ",\n,").split(",")
        ends = cells[width :: width + 1]
        if len(cells) == (len(ends) + 1) * (width + 1) - 1 and ends.count("\n") == len(ends):
            return [cells[column :: width + 1] for column in range(width)]
    raise DataError(f"{path} has rows of another length than its header: prepare the data again")


class _LineFeeds(io.StringIO):
    """Ends lines with LF alone. Readers take a bare CR for the end of a line too, so it has to be quoted."""

    def write(self, line: str, /) -> int:
        return super().write(line.removesuffix("\r\n") + "\n")


class _Values(dict[str, float]):
    """What the cells of a column of numbers stand for; most occur in many rows and are parsed once."""

    def __init__(self, name: str) -> None:
        super().__init__({"": _UNKNOWN[name]})
        self._parse = float if name == "fps" else int

    def __missing__(self, cell: str) -> float:
        self[cell] = value = self._parse(cell)
        return value


def _dtype(name: str) -> type[np.float64] | type[np.int32]:
    return np.float64 if name == "fps" else np.int32


def _known(value: float) -> float | None:
    return value if value >= 0 else None
