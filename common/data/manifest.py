"""The manifest: one row per clip, without labels. A clip's row number is its name in every other array."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from aplt.common.errors import DataError

Split = Literal["train", "test"]


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
    """Frames of the whole file. Like `fps` unknown (None) where the file cannot be decoded."""
    group: str = ""
    """The subject, if known: splits without common subjects keep it on one side."""
    split: Split = "train"


def manifest_text(clips: Iterable[Clip]) -> str:
    """Return the contents of manifest.csv."""
    return csv_text([field.name for field in fields(Clip)], (asdict(clip).values() for clip in clips))


def read_manifest(path: Path) -> tuple[Clip, ...]:
    """Return the rows of manifest.csv. Raises DataError where it is not one."""
    return tuple(_clip(row, path) for row in read_csv(path, [field.name for field in fields(Clip)]))


def csv_text(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a CSV table: header line, LF line ends, None as an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def read_csv(path: Path, header: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table that `csv_text` wrote. Raises DataError if it has other columns or cannot be read."""
    lines = csv.reader(io.StringIO(read_text(path), newline=""))
    found = next(lines, [])
    if found != list(header):
        raise DataError(f"{path} has the columns {found}, expected {list(header)}: prepare the data again")
    try:
        return [dict(zip(header, line, strict=True)) for line in lines]
    except ValueError:
        raise DataError(f"{path} has rows of another length than its header: prepare the data again") from None


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


def _clip(row: dict[str, str], path: Path) -> Clip:
    try:
        if row["split"] not in ("train", "test"):
            raise ValueError(f"split {row['split']!r}")
        return Clip(
            clip_id=row["clip_id"],
            video=row["video"],
            start=int(row["start"]) if row["start"] else None,
            end=int(row["end"]) if row["end"] else None,
            fps=float(row["fps"]) if row["fps"] else None,
            nframes=int(row["nframes"]) if row["nframes"] else None,
            group=row["group"],
            split="test" if row["split"] == "test" else "train",
        )
    except ValueError as error:
        raise DataError(
            f"{path}: row of clip {row['clip_id']!r} is damaged ({error}): prepare the data again"
        ) from None
