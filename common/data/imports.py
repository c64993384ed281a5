"""Splits that somebody else drew: lists of clips as other codebases write them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from aplt.common.data.manifest import Manifest
from aplt.common.data.splits import UNKNOWN, Pool, Split
from aplt.common.errors import DataError

HEADER = re.compile(r"(?i)(clip_?id|clip|path|video|file)s?\s*([,\t ].*)?")


def read_list(path: Path, manifest: Manifest) -> NDArray[np.int32]:
    """Return the manifest rows that a list names, ascending.

    A line is a path or clip id, alone or before a label, or a number of frames and a label, separated by blanks, tabs
    or commas; a header may come first. What stands before the part of a path that names a clip (another machine's
    folders) does not matter, nor does the extension. Labels in the list are not used: the data set has them.

    Raises:
        DataError: it cannot be read, or names what is no clip, or a clip twice.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if lines and HEADER.fullmatch(lines[0].strip()):
        lines[0] = ""
    rows_of = _index(manifest)
    rows, unknown = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = next((row for name in _names(line) if (row := _find(name, rows_of)) is not None), None)
        if found is None:
            unknown.append(f"line {number}: {line.strip()}")
        else:
            rows.append(found)
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(rows) + len(unknown)} lines of {path} name no clip that is prepared, or several "
            f"({'; '.join(unknown[:3])}): expected paths or clip ids as in manifest.csv"
        )
    if len(set(rows)) < len(rows):
        double, _ = Counter(rows).most_common(1)[0]
        raise DataError(f"{path} names {manifest.clip_id[double]!r} more than once: take the copies out")
    return np.array(sorted(rows), dtype=np.int32)


def split_of_lists(
    pool: Pool,
    *,
    labeled: NDArray[np.int32],
    unlabeled: NDArray[np.int32] | None,
    test: NDArray[np.int32] | None,
    drawn: Split,
) -> Split:
    """Return the split that lists make up; what they leave open is taken from a drawn one.

    Without a list of unlabelled clips these are the other training clips of `drawn`.

    Raises:
        DataError: the lists contradict each other, or list clips as labelled whose class is not known.
    """
    unknown = [pool.clip_ids[row] for row in labeled if pool.labels_N[row] == UNKNOWN]
    if unknown:
        raise DataError(f"{len(unknown)} clips of the labelled list have no known class, such as {unknown[0]!r}")
    tested = drawn.test_rows if test is None else test
    if unlabeled is None:
        trained = np.union1d(drawn.labeled_rows, drawn.unlabeled_rows)
        unlabeled = np.setdiff1d(np.setdiff1d(trained, labeled), tested).astype(np.int32)
    both = np.intersect1d(tested, np.union1d(labeled, unlabeled))
    if len(both):
        raise DataError(
            f"{len(both)} clips are for training and for testing, such as {pool.clip_ids[both[0]]!r}: correct the "
            "lists, or give the list of test clips too (--test)"
        )
    return Split(labeled_rows=labeled, unlabeled_rows=unlabeled, test_rows=tested)


def _index(manifest: Manifest) -> dict[str, list[int]]:
    """Return the rows by the last part of their clip id and of their path without extension."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    clips_of = Counter(manifest.video)
    for row, (clip_id, video) in enumerate(zip(manifest.clip_id, manifest.video, strict=True)):
        keys = {clip_id}
        if clips_of[video] == 1:  # else the path does not say which part of it
            keys.add(str(PurePosixPath(video).with_suffix("")))
        for key in keys:
            parts = PurePosixPath(key).parts
            for first in range(len(parts)):
                rows_of["/".join(parts[first:])].append(row)
    return rows_of


def _names(line: str) -> Iterator[str]:
    """Yield what may be the name in a line: all of it, or what stands before one or two more values."""
    line = line.strip()
    yield line
    for separator in (r"\t", ",", r"\s+"):
        parts = re.split(f"({separator})", line)
        for dropped in (2, 4):
            if len(parts) > dropped:
                yield "".join(parts[:-dropped]).strip().strip('"')


def _find(name: str, rows_of: dict[str, list[int]]) -> int | None:
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..")]
    for first in range(len(parts)):
        rest = "/".join(parts[first:])
        for key in (rest, str(PurePosixPath(rest).with_suffix(""))):
            found = set(rows_of.get(key, ()))
            if len(found) == 1:
                return found.pop()
    return None
