"""Faults of a prepared data directory that training would not notice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aplt.common.data.cache import DECODED, STATUS, wrong_rows
from aplt.common.data.manifest import read_columns
from aplt.common.data.prepared import QUARANTINE, PreparedData, read_about


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: what is wrong in one line, and the clips (or classes) it is about."""

    kind: Literal["missing", "quarantined", "damaged", "duplicate", "leak", "few labels", "shared group"]
    severity: Literal["error", "warning"]
    message: str
    names: tuple[str, ...]


def check(*, root: Path, prepared: Path, split: str, min_labels: int = 2) -> list[Finding]:
    """Return what is wrong with prepared data, errors first. Reads the whole clip cache.

    Args:
        root: Where the videos lie; those that are gone are reported.
        prepared: The prepared directory.
        split: The name of one of its splits.
        min_labels: Classes with fewer labelled clips are reported.

    Raises:
        DataError: the directory is not prepared.
    """
    data = PreparedData.open(prepared, split)
    about = read_about(prepared) or {}
    folder = prepared / "cache" / about["cache"]
    findings = [*_files(data, root, prepared), *_pixels(data, folder), *_labels(data, min_labels), *_groups(data)]
    return sorted(findings, key=lambda finding: finding.severity)


def _files(data: PreparedData, root: Path, prepared: Path) -> Iterator[Finding]:
    videos = {video: (root / video).is_file() for video in set(data.manifest.video)}
    clips = zip(data.manifest.clip_id, data.manifest.video, strict=True)
    gone = tuple(clip_id for clip_id, video in clips if not videos[video])
    if gone:
        yield Finding("missing", "warning", f"{len(gone)} videos are no longer in {root}", gone)
    left_out: dict[str, list[str]] = defaultdict(list)
    for clip_id, reason in zip(*read_columns(prepared / QUARANTINE, ("clip_id", "reason")), strict=True):
        left_out[reason].append(clip_id)
    for reason, names in sorted(left_out.items(), key=lambda item: -len(item[1])):
        yield Finding("quarantined", "warning", f"{len(names)} clips are left out: {reason}", tuple(names))


def _pixels(data: PreparedData, folder: Path) -> Iterator[Finding]:
    status = np.load(folder / STATUS)
    wrong = wrong_rows(folder, status)
    if len(wrong):
        damaged = tuple(data.manifest.clip_id[row] for row in wrong)
        yield Finding("damaged", "error", f"{len(damaged)} clips in {folder} are damaged: prepare again", damaged)
    whole = np.setdiff1d(np.flatnonzero(status["state"] == DECODED), wrong)
    tested = set(data.test_rows_T.tolist())
    for rows in _equal_rows(data, whole, status["checksum"]):
        names = tuple(data.manifest.clip_id[row] for row in rows)
        same = " and ".join(names) if len(names) < 4 else f"{len(names)} clips ({', '.join(names[:3])}, ...)"
        if len({row in tested for row in rows}) > 1:
            yield Finding("leak", "warning", f"{same} are the same, for training and for testing", names)
        else:
            yield Finding("duplicate", "warning", f"{same} are the same", names)


def _equal_rows(data: PreparedData, rows: NDArray[np.int64], checksums_N: NDArray[Any]) -> list[list[int]]:
    """Return groups of rows with equal frames; reads only clips whose checksum another one has too, each once."""
    _, inverse, counts = np.unique(checksums_N[rows], return_inverse=True, return_counts=True)
    alike: dict[bytes, list[int]] = defaultdict(list)
    for row in rows[counts[inverse] > 1].tolist():
        pixels = data.clips.read(np.array([row], dtype=np.int32))
        alike[hashlib.sha256(pixels.data).digest()].append(row)
    return [equal for equal in alike.values() if len(equal) > 1]


def _labels(data: PreparedData, min_labels: int) -> Iterator[Finding]:
    counts = np.bincount(data.labels_M, minlength=len(data.class_names))
    few = tuple(name for name, count in zip(data.class_names, counts, strict=True) if count < min_labels)
    if few:
        message = f"{len(few)} classes have fewer than {min_labels} labelled clips: {', '.join(few)}"
        yield Finding("few labels", "warning", message, few)


def _groups(data: PreparedData) -> Iterator[Finding]:
    trained = np.concatenate([data.labeled_rows_M, data.unlabeled_rows_N])
    groups = [{data.manifest.group[row] for row in rows.tolist()} for rows in (trained, data.test_rows_T)]
    shared = tuple(sorted((groups[0] & groups[1]) - {""}))
    if shared:
        message = f"{len(shared)} groups are in the training and in the test set: accuracy is not that of new subjects"
        yield Finding("shared group", "warning", message, shared)
