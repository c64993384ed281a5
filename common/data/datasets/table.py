"""Somebody's own clips named by a CSV table. Only names are looked at: no video is opened here."""

from __future__ import annotations

import csv
import io
from pathlib import Path, PurePosixPath
from typing import cast, get_args

from aplt.common.data.datasets.dataset import Dataset, Listing, class_names, named_classes
from aplt.common.data.datasets.folder import FolderOptions, group_of, own_clips, stem
from aplt.common.data.files import some
from aplt.common.data.source import Part, SourceClip
from aplt.common.errors import DataError

COLUMNS = ("path", "clip", "label", "group", "split", "start", "end")


class TableOptions(FolderOptions):
    """Options of a table of clips."""

    labels: Path | None = None
    """The table."""


def read_table(root: Path, labels: Path, *, group_regex: str | None = None) -> list[SourceClip]:
    """Return the clips that a CSV table names, sorted by clip id.

    Columns: `path` (or `clip`), the file relative to `root`; `label`, empty where unknown; and if wanted `group`,
    `split` (train or test), `start` and `end` (first and last frame, counted from 0). A clip that is a part of its
    file gets the id `<path>@<start>-<end>`. Without a group column, `group_regex` names the group.

    Raises:
        DataError: the table cannot be read, has unknown columns or values, leaves the root, or names missing files.
    """
    if not root.is_dir():
        raise DataError(f"data.root {root} is not a folder: it must hold the files that {labels} names")
    rows = _rows(labels)
    clips = [_table_clip(row, f"{labels}, line {line}", group_regex) for line, row in rows]
    if not clips:
        raise DataError(f"{labels} names no clips: expected one row per clip under the header {','.join(COLUMNS[1:3])}")
    missing = [clip.video for clip in clips if not (root / clip.video).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(clips)} files that {labels} names do not exist in {root} ({some(missing)}): "
            "correct the paths (relative to data.root, with their extension) or take the rows out"
        )
    return own_clips(clips, str(labels), group_regex)


def _rows(labels: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        text = labels.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"data.labels {labels} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"data.labels {labels} is not UTF-8 ({error.reason}): save it as a UTF-8 CSV table") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip().lower() for name in next(reader, [])]
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or len(set(header)) < len(header) or ("path" in header) == ("clip" in header) or "label" not in header:
        raise DataError(
            f"{labels} has the columns {', '.join(header) or '(none)'}: expected path (or clip) and label, and if "
            "wanted group, split, start, end, separated by commas, each once and no others"
        )
    rows = []
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(header):
            raise DataError(
                f"{labels}, line {reader.line_num}: {len(values)} values for {len(header)} columns; put values that "
                "contain commas in double quotes"
            )
        rows.append((reader.line_num, {name: value.strip() for name, value in zip(header, values, strict=True)}))
    return rows


def _table_clip(row: dict[str, str], where: str, group_regex: str | None) -> SourceClip:
    video = _inside(row.get("path") or row.get("clip") or "", where)
    start, end = _frame(row.get("start", ""), where), _frame(row.get("end", ""), where)
    if start is not None and end is not None and end < start:
        raise DataError(f"{where}: the clip ends at frame {end}, before its start at frame {start}")
    split = row.get("split", "")
    if split not in get_args(Part):
        raise DataError(f"{where}: split is {split!r}, expected train, val or test")
    part = "" if start is None and end is None else f"@{start or 0}-{'' if end is None else end}"
    return SourceClip(
        clip_id=stem(video) + part,
        video=video,
        label=row["label"] or None,
        group=row.get("group") or group_of(video, group_regex),
        split=cast("Part", split),
        start=start,
        end=end,
    )


def _inside(path: str, where: str) -> str:
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or not parts.name:
        raise DataError(f"{where}: path {path!r} must name a file inside data.root, relative to it and without `..`")
    return str(parts)


def _frame(value: str, where: str) -> int | None:
    if not value:
        return None
    if not (value.isascii() and value.isdigit()):
        raise DataError(f"{where}: frame {value!r} is not a whole number from 0")
    return int(value)


def _read(root: Path, options: TableOptions) -> Listing:
    if options.labels is None:
        raise DataError("data.adapter csv needs data.labels: the path of the table")
    clips = read_table(root, options.labels, group_regex=options.group_regex)
    return Listing(clips=clips, classes=named_classes(class_names(clips)))


TABLE = Dataset(title="clips that a table names", options=TableOptions, read=_read)
