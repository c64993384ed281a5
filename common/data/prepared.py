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
from aplt.common.data.manifest import Clip, read_csv, read_manifest, read_text
from aplt.common.errors import DataError

PREPARED = "prepared.json"
MANIFEST, CLASSES, TRUTH, QUARANTINE = "manifest.csv", "classes.json", "truth.csv", "quarantine.csv"
LABELED, UNLABELED, SPLIT = "split/labeled.csv", "split/unlabeled.txt", "split/split.json"
VISIBLE = (MANIFEST, CLASSES, QUARANTINE, LABELED, UNLABELED, SPLIT)  # all but the truth


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedData:
    """What the services see of the data. Labels of other clips than the labelled ones are not in it."""

    manifest: tuple[Clip, ...]
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
        row_of = {clip.clip_id: row for row, clip in enumerate(manifest)}
        labeled = read_csv(prepared / LABELED, ("clip_id", "label"))
        bad = {row["clip_id"] for row in read_csv(prepared / QUARANTINE, ("clip_id", "reason"))}
        unlabeled = read_text(prepared / UNLABELED).split("\n")[:-1]
        test = [row for row, clip in enumerate(manifest) if clip.split == "test" and clip.clip_id not in bad]
        return cls(
            manifest=manifest,
            class_names=names,
            labeled_rows_M=np.array([row_of[row["clip_id"]] for row in labeled], dtype=np.int32),
            labels_M=np.array([names.index(row["label"]) for row in labeled], dtype=np.int16),
            unlabeled_rows_N=np.array([row_of[clip_id] for clip_id in unlabeled], dtype=np.int32),
            test_rows_T=np.array(test, dtype=np.int32),
            clips=ClipCache.open(prepared / "cache" / about["cache"]),
            digest=about["digest"],
        )


def load_truth(prepared: Path) -> NDArray[np.int16]:
    """Return the class of every manifest row, -1 where unknown. For evaluation alone: it shows every label."""
    manifest = read_manifest(prepared / MANIFEST)
    names = {name: number for number, name in enumerate(json.loads(read_text(prepared / CLASSES)))}
    known = {row["clip_id"]: names[row["label"]] for row in read_csv(prepared / TRUTH, ("clip_id", "label"))}
    return np.array([known.get(clip.clip_id, -1) for clip in manifest], dtype=np.int16)


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
