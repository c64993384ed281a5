"""Somebody's own clips in folders: root/<class>/.../<clip>. Only names are looked at: no video is opened here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from aplt.common.data.datasets.dataset import Dataset, Listing, Options, checked, class_names, named_classes
from aplt.common.data.files import VIDEO_EXTENSIONS, is_video, some, walk
from aplt.common.data.source import SourceClip
from aplt.common.errors import DataError


class FolderOptions(Options):
    """Options of folders of clips."""

    group_regex: str | None = None
    """Searched in the file stem; its first group names the subject."""


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
            loose += [entry] if is_video(entry) else []
            continue
        videos = list(_videos(root / entry, entry))
        if not videos:
            empty.append(entry)
        clips += [
            SourceClip(clip_id=stem(video), video=video, label=entry, group=group_of(video, group_regex))
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
            f"{len(empty)} class folders in {root} hold no clips ({some(empty)}): fill them, or move them elsewhere"
        )
    return own_clips(clips, str(root), group_regex)


def stem(video: str) -> str:
    """Return the path without its extension."""
    return str(PurePosixPath(video).with_suffix(""))


def group_of(video: str, group_regex: str | None) -> str:
    """Return the group that the name of a file shows, "" if it shows none. Raises DataError for a faulty pattern."""
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


def own_clips(clips: list[SourceClip], where: str, group_regex: str | None) -> list[SourceClip]:
    """Return the clips sorted by clip id. Raises DataError if they cannot be trained from."""
    names = class_names(clips)
    if len(names) < 2:
        raise DataError(f"{where} has {len(names)} classes ({some(names)}): at least two are needed")
    clips = checked(clips, names, where)
    without = [PurePosixPath(clip.video).stem for clip in clips if group_regex and not clip.group]
    if without:
        raise DataError(
            f"data.group_regex {group_regex!r} finds no group in {len(without)} of {len(clips)} file names "
            f"({some(without)}): it is searched in the name without extension, and its first group must not be empty"
        )
    return clips


def _videos(folder: Path, relative: str) -> Iterator[str]:
    for below, names in walk(folder):
        yield from (str(PurePosixPath(relative, below, name)) for name in names if is_video(name))


def _read(root: Path, options: FolderOptions) -> Listing:
    clips = read_folder(root, group_regex=options.group_regex)
    return Listing(clips=clips, classes=named_classes(class_names(clips)))


FOLDER = Dataset(title="clips in one folder per class", options=FolderOptions, read=_read)
