"""From folders or a table to clips with labels. Only names are looked at: no video is opened here."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import cast, get_args

from aplt.common.data.source import Part, SourceClip
from aplt.common.errors import DataError

VIDEO_EXTENSIONS = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".webm",
        ".wmv",
    ]  # what FFmpeg opens by content
)
COLUMNS = ("path", "clip", "label", "group", "split", "start", "end")
FEW = 3


def read_folder(root: Path, *, group_regex: str | None = None) -> list[SourceClip]:
    """Return the clips of root/<class>/.../<clip>.<ext>, sorted by clip id.

    The id is the path without its extension; files that are no videos, and hidden ones, are passed over.

    Raises:
        DataError: no clips, clips outside a class folder, an empty class folder, ids or classes that clash, or a name
            in which `group_regex` is not found.
    """
    if not root.is_dir():
        raise DataError(f"data.root {root} is not a folder: it must hold one folder of clips per class")
    clips: list[SourceClip] = []
    loose, empty = [], []
    for entry in sorted(os.listdir(root)):
        if entry.startswith("."):
            continue
        if not (root / entry).is_dir():
            loose += [entry] if _is_video(entry) else []
            continue
        videos = list(_videos(root / entry, entry))
        if not videos:
            empty.append(entry)
        clips += [
            SourceClip(clip_id=_stem(video), video=video, label=entry, group=_group(video, group_regex))
            for video in videos
        ]
    if loose:
        raise DataError(
            f"{len(loose)} videos lie directly in {root} (such as {loose[0]!r}): put each into a folder named after "
            "its class, or name the classes in a table with data.adapter: csv"
        )
    if not clips:
        raise DataError(
            f"{root} holds no clips: expected {root}/<class>/<clip> with one of the endings "
            f"{' '.join(sorted(VIDEO_EXTENSIONS))}"
        )
    if empty:
        raise DataError(
            f"{len(empty)} class folders in {root} hold no clips ({_some(empty)}): fill them, or move them elsewhere"
        )
    return _checked(clips, str(root), group_regex)


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
            f"{len(missing)} of {len(clips)} files that {labels} names do not exist in {root} ({_some(missing)}): "
            "correct the paths (relative to data.root, with their extension) or take the rows out"
        )
    return _checked(clips, str(labels), group_regex)


def class_names(clips: Sequence[SourceClip]) -> list[str]:
    """Return the sorted names of the classes; a class's number is its place in this list."""
    return sorted({clip.label for clip in clips if clip.label is not None})


def _videos(folder: Path, relative: str) -> Iterator[str]:
    inside: set[str] = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        folders[:] = [] if real in inside else sorted(name for name in folders if not name.startswith("."))
        if real in inside:  # a link back up: its files were seen
            continue
        inside.add(real)
        below = PurePosixPath(relative, *Path(path).relative_to(folder).parts)
        yield from (str(below / name) for name in sorted(files) if _is_video(name) and not name.startswith("."))


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS


def _stem(video: str) -> str:
    return str(PurePosixPath(video).with_suffix(""))


def _group(video: str, group_regex: str | None) -> str:
    if group_regex is None:
        return ""
    try:
        pattern = re.compile(group_regex)
    except re.error as error:
        raise DataError(f"data.group_regex {group_regex!r} is no regular expression: {error}") from None
    if pattern.groups < 1:
        raise DataError(f"data.group_regex {group_regex!r} has no group: put brackets around the subject, ^([^_]+)_")
    match = pattern.search(PurePosixPath(video).stem)
    return (match.group(1) or "") if match else ""


def _checked(clips: list[SourceClip], where: str, group_regex: str | None) -> list[SourceClip]:
    clips = sorted(clips, key=lambda clip: clip.clip_id)
    names = class_names(clips)
    if len(names) < 2:
        raise DataError(f"{where} has {len(names)} classes ({_some(names)}): at least two are needed")
    _refuse_clashes(names, f"classes of {where} differ only in case", "rename or merge them")
    broken = [clip.video for clip in clips if re.search(r"[\x00-\x1f]", clip.video)]
    if broken:
        raise DataError(f"{where} has file names with line breaks or control characters ({_some(broken)}): rename them")
    without = [PurePosixPath(clip.video).stem for clip in clips if group_regex and not clip.group]
    if without:
        raise DataError(
            f"data.group_regex {group_regex!r} finds no group in {len(without)} of {len(clips)} file names "
            f"({_some(without)}): it is searched in the name without extension, and its first group must not be empty"
        )
    by_id: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        by_id[clip.clip_id].append(clip.video)
    double = {clip_id: videos for clip_id, videos in by_id.items() if len(videos) > 1}
    if double:
        clip_id, videos = next(iter(double.items()))
        raise DataError(
            f"{len(double)} clip ids of {where} occur more than once, such as {clip_id!r} for {' and '.join(videos)}: "
            "keep one of them, or give them names that differ in more than the extension"
        )
    return clips


def _refuse_clashes(names: Sequence[str], what: str, cure: str) -> None:
    by_folded: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_folded[name.casefold()].append(name)
    clashes = [" and ".join(map(repr, same)) for same in by_folded.values() if len(same) > 1]
    if clashes:
        raise DataError(f"{what} ({', '.join(clashes)}): {cure}")


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
        clip_id=_stem(video) + part,
        video=video,
        label=row["label"] or None,
        group=row.get("group") or _group(video, group_regex),
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


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:FEW])) + (", ..." if len(names) > FEW else "")
