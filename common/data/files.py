"""The files below a folder: which are videos, where one of a given name lies, and what a list says line by line."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

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
ARCHIVE_EXTENSIONS = (".zip", ".rar", ".7z", ".tar", ".tgz", ".gz")
FEW = 3


def is_video(name: str) -> bool:
    """Return whether a file of this name is a video, by its ending."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS


def some(names: Sequence[str]) -> str:
    """Return the first few names, quoted, for a message."""
    return ", ".join(map(repr, names[:FEW])) + (", ..." if len(names) > FEW else "")


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below `folder`, as a path relative to it ("" for itself), with the sorted names of its files.

    Hidden files and folders are passed over. Links are followed, but no folder is seen twice.

    Raises:
        DataError: a folder cannot be read.
    """
    seen: set[str] = set()
    for path, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(path)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:  # a link back up, or to what another name has shown
            continue
        seen.add(real)
        below = os.path.relpath(path, folder)
        yield "" if below == "." else below, sorted(name for name in files if not name.startswith("."))


def archives_hint(root: Path) -> str:
    """Return what to say of archives below `root` where something is not found; "" if there are none."""
    found = [name for _, names in walk(root) for name in names if name.lower().endswith(ARCHIVE_EXTENSIONS)]
    return f"; {len(found)} archives there may have to be unpacked first ({some(found)})" if found else ""


class Tree:
    """What lies below the root of a data set, at whatever depth its archives unpacked to. Only names are read.

    Raises:
        DataError: the root is not a folder, or a folder below it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"data.root {root} is not a folder: it must hold the unpacked files of the data set")
        self.root = root
        self._videos: dict[str, list[str]] = defaultdict(list)
        self._others: dict[str, list[str]] = defaultdict(list)
        for folder, names in walk(root):
            for name in names:
                if is_video(name):
                    self._videos[os.path.splitext(name)[0]].append(os.path.join(folder, name))
                else:
                    self._others[name].append(os.path.join(folder, name))

    def video(self, stem: str, *, near: str = "") -> str:
        """Return the video whose name without its ending is `stem`, relative to the root; "" if there is none.

        Of several, it is one in a folder named `near`, or one whose name holds it, or the one with the shortest path.
        """

        def rank(path: str) -> tuple[bool, bool, int, str]:
            folder = os.path.dirname(path)
            return near not in folder.split(os.sep), near not in folder, len(path), path

        found = self._videos.get(stem, ())
        return found[0] if len(found) == 1 else min(found, key=rank, default="")

    def videos(self) -> list[str]:
        """Return all videos, relative to the root."""
        return [path for paths in self._videos.values() for path in paths]

    def list_file(self, name: str) -> Path | None:
        """Return the file `name`; None if there is none.

        Raises:
            DataError: there are several that differ.
        """
        found = [self.root / path for path in self._others.get(name, ())]
        if len({path.read_bytes() for path in found}) > 1:
            raise DataError(
                f"{self.root} holds {len(found)} files {name} that differ ({some([str(path) for path in found])}): "
                "keep one"
            )
        return found[0] if found else None

    def list_files(self, pattern: re.Pattern[str]) -> list[Path]:
        """Return the files, other than videos, whose whole name fits, sorted by name; of equal ones, one.

        Raises:
            DataError: there are several of one name that differ.
        """
        found = (self.list_file(name) for name in sorted(self._others) if pattern.fullmatch(name))
        return [path for path in found if path is not None]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a list that are not blank, stripped, each with its number from 1.

    Line ends may be LF or CRLF, the first line may have a byte order mark, the last one may lack its end.

    Raises:
        DataError: the file cannot be read or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}): is it the original list?") from None
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if line]


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read ({error.strerror}): allow it, or move it out of the data root")
