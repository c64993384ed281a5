"""Which content a video file has, without reading all of it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aplt.common.data.manifest import csv_text, read_columns, write_text
from aplt.common.errors import DataError

SAMPLE = 1 << 16
GONE = ""
COLUMNS = ("video", "bytes", "modified_ns", "fingerprint")
THREADS = 8  # it is the answers of the disk that are waited for


def fingerprint(path: Path, *, length: int) -> str:
    """Return a digest of a file's length, beginning, middle and end.

    Containers list the sizes of all their frames at the beginning or the end, so no two encodings agree in these. A
    copy of a file has the fingerprint of the file, whatever its name and date.

    Raises:
        OSError: it cannot be read.
    """
    found = hashlib.sha256(str(length).encode())
    with path.open("rb") as file:
        for start in sorted({0, max(0, length // 2 - SAMPLE // 2), max(0, length - SAMPLE)}):
            file.seek(start)
            found.update(file.read(SAMPLE))
    return found.hexdigest()[:32]


def fingerprints(
    root: Path, videos: Sequence[str], *, index: Path, progress: Callable[[int], None] = lambda _: None
) -> dict[str, str]:
    """Return the fingerprint of every video; "" for one that cannot be read, which decoding tells.

    Args:
        root: The data root.
        videos: Paths relative to it.
        index: A table of what was found before. A file whose length and date are still those is not opened again.
        progress: Called with the number of videos done, now and then.
    """
    known = _read_index(index)
    results: dict[str, tuple[int, int, str]] = {}

    def look(video: str) -> tuple[int, int, str]:
        try:
            found = os.stat(root / video)
            before = known.get(video)
            if before is not None and before[:2] == (found.st_size, found.st_mtime_ns):
                return before
            if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for somebody to write into it
                return -1, -1, GONE
            return found.st_size, found.st_mtime_ns, fingerprint(root / video, length=found.st_size)
        except OSError:
            return -1, -1, GONE

    with ThreadPoolExecutor(THREADS) as pool:
        for done, (video, result) in enumerate(zip(videos, pool.map(look, videos), strict=True), start=1):
            results[video] = result
            if done % 1000 == 0:
                progress(done)
    if results != known:
        write_text(index, csv_text(COLUMNS, ((video, *values) for video, values in results.items())))
    return {video: values[2] for video, values in results.items()}


def _read_index(index: Path) -> dict[str, tuple[int, int, str]]:
    """Return the table; nothing if it is not there or damaged, for it only saves time."""
    if not index.is_file():
        return {}
    try:
        rows = zip(*read_columns(index, COLUMNS), strict=True)
        return {video: (int(length), int(modified), found) for video, length, modified, found in rows}
    except (DataError, ValueError):
        return {}
