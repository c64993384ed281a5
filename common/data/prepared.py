"""A prepared data directory as the services see it. `aplt.common.data.prepare` makes it.

N unlabelled clips, M labelled, T test; rows are places in the manifest, which is sorted by clip id.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aplt.common.data.cache import ClipCache
from aplt.common.data.manifest import Manifest, read_columns, read_manifest, read_text
from aplt.common.errors import DataError

PREPARED = "prepared.json"
MANIFEST, CLASSES, TRUTH, QUARANTINE = "manifest.csv", "classes.json", "truth.csv", "quarantine.csv"
LABELED, UNLABELED, SPLIT = "split/labeled.csv", "split/unlabeled.txt", "split/split.json"
VISIBLE = (MANIFEST, CLASSES, QUARANTINE, LABELED, UNLABELED, SPLIT)  # all but the truth


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
    """Of manifest, classes, splits and frame settings: equal on every machine that prepared the same data."""

    @classmethod
    def open(cls, prepared: Path) -> PreparedData:
        """Return the data prepared in this directory. Raises DataError if it is not prepared, unfinished or changed."""
        about = read_about(prepared)
        if about is None:
            raise DataError(f"{prepared} holds no prepared data: run `aplt data prepare CONFIG` first")
        for name in VISIBLE:
            if digest(read_text(prepared / name)) != about["files"][name]:
                raise DataError(f"{prepared / name} was changed by hand or is being rewritten: prepare the data again")
        manifest = read_manifest(prepared / MANIFEST)
        names = tuple(json.loads(read_text(prepared / CLASSES)))
        row_of = {clip_id: row for row, clip_id in enumerate(manifest.clip_id)}
        number_of = {name: number for number, name in enumerate(names)}
        labeled, labels = read_columns(prepared / LABELED, ("clip_id", "label"))
        bad = set(read_columns(prepared / QUARANTINE, ("clip_id", "reason"))[0])
        unlabeled = read_text(prepared / UNLABELED).split("\n")[:-1]
        parts = enumerate(zip(manifest.clip_id, manifest.split, strict=True))
        test = [row for row, (clip_id, part) in parts if part == "test" and clip_id not in bad]
        return cls(
            manifest=manifest,
            class_names=names,
            labeled_rows_M=np.array([row_of[clip_id] for clip_id in labeled], dtype=np.int32),
            labels_M=np.array([number_of[label] for label in labels], dtype=np.int16),
            unlabeled_rows_N=np.array([row_of[clip_id] for clip_id in unlabeled], dtype=np.int32),
            test_rows_T=np.array(test, dtype=np.int32),
            clips=ClipCache.open(prepared / "cache" / about["cache"]),
            digest=about["digest"],
        )


def load_truth(prepared: Path) -> NDArray[np.int16]:
    """Return the class of every manifest row, -1 where unknown. For evaluation alone: it shows every label."""
    manifest = read_manifest(prepared / MANIFEST)
    names = {name: number for number, name in enumerate(json.loads(read_text(prepared / CLASSES)))}
    clip_ids, labels = read_columns(prepared / TRUTH, ("clip_id", "label"))
    known = {clip_id: names[label] for clip_id, label in zip(clip_ids, labels, strict=True)}
    return np.array([known.get(clip_id, -1) for clip_id in manifest.clip_id], dtype=np.int16)


def read_about(prepared: Path) -> dict[str, Any] | None:
    """Return prepared.json, which is written last and vouches for everything else; None if it is lost or damaged."""
    path = prepared / PREPARED
    if not path.is_file():
        return None
    try:
        about = json.loads(read_text(path))
    except json.JSONDecodeError:
        return None
    known = isinstance(about, dict) and {"digest", "cache", "files"} <= about.keys()
    # The name of the cache is a digest: it leads nowhere else.
    return about if known and re.fullmatch(r"[0-9a-f]+", str(about["cache"])) else None


def digest(value: object) -> str:
    """Return the digest of a text, or of a JSON value."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
