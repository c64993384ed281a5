"""A prepared data directory as the services see it. `aplt.common.data.prepare` makes it.

It holds the manifest (one row per clip, sorted by clip id), the clip cache, and any number of splits of the clips under
`splits/<name>/`, so that runs with other shares of labels or other seeds decode nothing anew.

N unlabelled clips, M labelled, T test; rows are places in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aplt.common.data.cache import ClipCache
from aplt.common.data.manifest import Manifest, csv_text, read_columns, read_manifest, read_text, write_text
from aplt.common.data.source import SourceClass
from aplt.common.data.splits import UNKNOWN, Pool, Split
from aplt.common.errors import DataError

PREPARED = "prepared.json"
MANIFEST, CLASSES, TRUTH, QUARANTINE = "manifest.csv", "classes.json", "truth.csv", "quarantine.csv"
VISIBLE = (MANIFEST, CLASSES, QUARANTINE)  # all but the truth
SPLITS = "splits"
LABELED, UNLABELED, TEST, ABOUT_SPLIT = "labeled.csv", "unlabeled.csv", "test.csv", "split.json"
AGAIN = "prepare the data again"


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedData:
    """What the services see of the data. Labels of other clips than the labelled ones are not in it."""

    manifest: Manifest
    class_names: tuple[str, ...]
    labeled_rows_M: NDArray[np.int32]
    labels_M: NDArray[np.int16]
    unlabeled_rows_N: NDArray[np.int32]
    test_rows_T: NDArray[np.int32]
    clips: ClipCache
    digest: str
    """Of manifest, classes, split and frame settings: equal on every machine that prepared the same data."""

    @classmethod
    def open(cls, prepared: Path, split: str) -> PreparedData:
        """Return the data prepared in this directory, split in the way of this name.

        Clips in quarantine are in none of the three parts.

        Raises:
            DataError: the directory or the split is not prepared, unfinished or changed.
        """
        about = require_about(prepared)
        for name in VISIBLE:
            if digest(read_text(prepared / name)) != about["files"][name]:
                raise DataError(f"{prepared / name} was changed by hand or is being rewritten: {AGAIN}")
        manifest = read_manifest(prepared / MANIFEST)
        names = tuple(classes_of(prepared))
        number_of = {name: number for number, name in enumerate(names)}
        lists = _read_split(prepared, split, about)
        row_of = {clip_id: row for row, clip_id in enumerate(manifest.clip_id)}
        bad = set(read_columns(prepared / QUARANTINE, ("clip_id", "reason"))[0])
        labeled, _, labels = read_columns(lists / LABELED, ("clip_id", "video", "label"))
        label_of = {clip_id: label for clip_id, label in zip(labeled, labels, strict=True) if clip_id not in bad}

        def rows(name: str) -> NDArray[np.int32]:
            found = read_columns(lists / name, ("clip_id", "video"))[0]
            return np.array([row_of[clip_id] for clip_id in found if clip_id not in bad], dtype=np.int32)

        try:
            return cls(
                manifest=manifest,
                class_names=names,
                labeled_rows_M=np.array([row_of[clip_id] for clip_id in label_of], dtype=np.int32),
                labels_M=np.array([number_of[label] for label in label_of.values()], dtype=np.int16),
                unlabeled_rows_N=rows(UNLABELED),
                test_rows_T=rows(TEST),
                clips=ClipCache.open(prepared / "cache" / about["cache"]),
                digest=digest({"data": about["digest"], "split": _split_about(lists)["files"]}),
            )
        except KeyError as error:
            raise DataError(
                f"split {split} of {prepared} names {error}, which is no clip or class there (any more): {AGAIN}, or "
                "make the split again"
            ) from None


def load_truth(prepared: Path) -> NDArray[np.int16]:
    """Return the class of every manifest row, -1 where unknown. For evaluation alone: it shows every label."""
    return _truth(prepared, read_manifest(prepared / MANIFEST))


def load_pool(prepared: Path) -> Pool:
    """Return the clips that splits are drawn from. It shows every label. Raises DataError if nothing is prepared."""
    require_about(prepared)
    manifest = read_manifest(prepared / MANIFEST)
    return Pool(
        clip_ids=manifest.clip_id,
        class_names=classes_of(prepared),
        labels_N=_truth(prepared, manifest),
        groups=manifest.group,
        parts=manifest.split,
        lengths_N=manifest.lengths,
    )


def classes_of(prepared: Path) -> list[str]:
    """Return the names of the classes in the order of their numbers."""
    return [str(one["name"]) for one in json.loads(read_text(prepared / CLASSES))]


def classes_text(classes: Iterable[SourceClass]) -> str:
    """Return the contents of classes.json, which keeps the numbers that the classes have in the whole data set."""
    rows = [{"name": one.name, "number": one.number, "original": one.original, "coarse": one.coarse} for one in classes]
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def read_about(prepared: Path) -> dict[str, Any] | None:
    """Return prepared.json, which is written last and vouches for everything else; None if it is lost or damaged."""
    about = _read_json(prepared / PREPARED)
    # The name of the cache is a digest: it leads nowhere else.
    known = about is not None and {"digest", "cache", "pool", "files"} <= about.keys()
    return about if about is not None and known and re.fullmatch(r"[0-9a-f]+", str(about["cache"])) else None


def require_about(prepared: Path) -> dict[str, Any]:
    """Return prepared.json. Raises DataError if nothing is prepared there."""
    about = read_about(prepared)
    if about is None:
        raise DataError(f"{prepared} holds no prepared data: run `aplt data prepare` first")
    return about


def split_names(prepared: Path) -> list[str]:
    """Return the names of the splits that are there."""
    return sorted(path.parent.name for path in (prepared / SPLITS).glob(f"*/{ABOUT_SPLIT}"))


def read_split(prepared: Path, name: str) -> dict[str, Any]:
    """Return split.json: rules or origin, counts, digests. Raises DataError if there is no such split."""
    return _split_about(_read_split(prepared, name, require_about(prepared)))


def write_split(prepared: Path, name: str, split: Split, pool: Pool, *, origin: dict[str, Any]) -> None:
    """Write the three lists of a split and, last, split.json; nothing if they are there already.

    Args:
        prepared: The prepared directory.
        name: Of the split.
        split: What was drawn or imported.
        pool: What it was drawn from.
        origin: How it came about: {"rules": ...} or {"imported": ...}.
    """
    videos = read_manifest(prepared / MANIFEST).video

    def table(rows: NDArray[np.int32]) -> str:
        return csv_text(("clip_id", "video"), ((pool.clip_ids[row], videos[row]) for row in rows.tolist()))

    labeled = (
        (pool.clip_ids[row], videos[row], pool.class_names[pool.labels_N[row]]) for row in split.labeled_rows.tolist()
    )
    files = {
        LABELED: csv_text(("clip_id", "video", "label"), labeled),
        UNLABELED: table(split.unlabeled_rows),
        TEST: table(split.test_rows),
    }
    counts = np.bincount(pool.labels_N[split.labeled_rows], minlength=len(pool.class_names)).tolist()
    about = {
        **origin,
        "pool": pool_digest(pool.clip_ids),
        "clips": {
            "labeled": len(split.labeled_rows),
            "unlabeled": len(split.unlabeled_rows),
            "test": len(split.test_rows),
        },
        "labeled": dict(zip(pool.class_names, counts, strict=True)),
        "files": {name: digest(text) for name, text in files.items()},
    }
    folder = prepared / SPLITS / name
    if _read_json(folder / ABOUT_SPLIT) == about and all(
        (folder / name).is_file() and digest(read_text(folder / name)) == about["files"][name] for name in files
    ):
        return
    (folder / ABOUT_SPLIT).unlink(missing_ok=True)
    for file_name, text in files.items():
        write_text(folder / file_name, text)
    write_text(folder / ABOUT_SPLIT, json.dumps(about, ensure_ascii=False, indent=1) + "\n")


def pool_digest(clip_ids: Iterable[str]) -> str:
    """Return the digest of the clips that a split is drawn from."""
    return digest("".join(f"{clip_id}\n" for clip_id in clip_ids))


def digest(value: object) -> str:
    """Return the digest of a text, or of a JSON value."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _read_split(prepared: Path, name: str, about: dict[str, Any]) -> Path:
    """Return the folder of a split whose lists are as they were written, over the clips that are prepared."""
    folder = prepared / SPLITS / name
    found = _read_json(folder / ABOUT_SPLIT)
    if found is None or not {"files", "pool"} <= found.keys():
        there = ", ".join(split_names(prepared)) or "none"
        raise DataError(f"{prepared} has no split {name!r} (there are: {there}): `aplt data split` makes one")
    for file_name, expected in found["files"].items():
        if file_name in (LABELED, UNLABELED, TEST) and digest(read_text(folder / file_name)) != expected:
            raise DataError(f"{folder / file_name} was changed by hand or is being rewritten: {AGAIN}")
    if "rules" in found and found["pool"] != about["pool"]:
        raise DataError(f"split {name} of {prepared} was drawn from other clips than are prepared now: {AGAIN}")
    return folder


def _split_about(folder: Path) -> dict[str, Any]:
    return _read_json(folder / ABOUT_SPLIT) or {}


def _truth(prepared: Path, manifest: Manifest) -> NDArray[np.int16]:
    number_of = {name: number for number, name in enumerate(classes_of(prepared))}
    clip_ids, labels = read_columns(prepared / TRUTH, ("clip_id", "label"))
    known = {clip_id: number_of[label] for clip_id, label in zip(clip_ids, labels, strict=True)}
    return np.array([known.get(clip_id, UNKNOWN) for clip_id in manifest.clip_id], dtype=np.int16)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
