"""What people ask about label versions, as plain values: the commands print them as tables or JSON.

Letters: N unlabelled clips, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from aplt.common.artifacts import LabelVersion
from aplt.common.errors import RunError
from aplt.common.store import ArtifactStore

Values = dict[str, Any]
EXPORT_COLUMNS = ("clip_id", "path", "label", "distance", "threshold", "kept")


def pick_version(store: ArtifactStore, version: int | None) -> int:
    """Return the label version that was asked for, the newest if none was.

    Raises:
        RunError: the run has no label version yet, or not this one.
    """
    there = store.labels.versions()
    if not there:
        raise RunError(f"run {store.run} has no label version yet")
    if version is not None and version not in there:
        raise RunError(f"run {store.run} has no label version {version}; there are {', '.join(map(str, there))}")
    return there[-1] if version is None else version


def list_versions(store: ArtifactStore) -> list[Values]:
    """Return the numbers of every label version, oldest first; precision is None where nothing was evaluated."""
    return [describe_version(store, version) for version in store.labels.versions()]


def describe_version(store: ArtifactStore, version: int) -> Values:
    """Return the numbers of one label version and of the evaluation of the checkpoint it was made from."""
    manifest = store.labels.manifest(version)
    summary, epoch = manifest.summary, int(str(manifest.scalars["epoch"]))
    judged = evaluated(store, epoch)
    return {
        "version": version,
        "epoch": epoch,
        **{
            key: summary.get(key)
            for key in ("clips", "kept", "kept_share", "ratio", "global_threshold", "iterations", "converged")
        },
        "precision": judged.get("labels/precision"),
        "accuracy_all": judged.get("labels/accuracy_all"),
        "prototypes_accuracy": judged.get("prototypes/accuracy"),
        "head_accuracy": judged.get("head/accuracy"),
        "parents": [f"{parent.series} {parent.version}" for parent in manifest.parents],
        "made_at": manifest.provenance.created_at,
        "made_by": f"{manifest.provenance.role} on {manifest.provenance.host}, aplt {manifest.provenance.code_version}",
    }


def describe_classes(store: ArtifactStore, version: int, names: Sequence[str]) -> list[Values]:
    """Return thresholds, counts and precision of one label version by class."""
    manifest = store.labels.manifest(version)
    judged = evaluated(store, int(str(manifest.scalars["epoch"])))
    per_class: Any = manifest.summary["per_class"]
    return [
        {
            "class": name,
            **values,
            "kept_share": values["kept"] / values["assigned"] if values["assigned"] else None,
            "precision": judged.get(f"labels/precision_class_{c}"),
        }
        for c, (name, values) in enumerate(zip(names, per_class, strict=True))
    ]


def compare_versions(before: LabelVersion, after: LabelVersion, names: Sequence[str]) -> Values:
    """Return how many clips changed their label or were kept or dropped, and where the changed ones went."""
    _, of_before_N, of_after_N = np.intersect1d(before.rows_N, after.rows_N, assume_unique=True, return_indices=True)
    old_N, new_N = before.labels_N[of_before_N], after.labels_N[of_after_N]
    kept_old_N, kept_new_N = before.kept_N[of_before_N], after.kept_N[of_after_N]
    changed_N = old_N != new_N
    flows_KK = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(flows_KK, (old_N[changed_N], new_N[changed_N]), 1)
    order = np.argsort(-flows_KK, axis=None, kind="stable")[: np.count_nonzero(flows_KK)]
    return {
        "before": before.version,
        "after": after.version,
        "clips": len(old_N),
        "only_in_one": len(before.rows_N) + len(after.rows_N) - 2 * len(old_N),
        "changed_label": int(changed_N.sum()),
        "changed_label_kept_in_both": int((changed_N & kept_old_N & kept_new_N).sum()),
        "newly_kept": int((~kept_old_N & kept_new_N).sum()),
        "newly_dropped": int((kept_old_N & ~kept_new_N).sum()),
        "ratio": [before.ratio, after.ratio],
        "per_class": [
            {
                "class": name,
                "assigned_before": int((old_N == c).sum()),
                "assigned_after": int((new_N == c).sum()),
                "left": int(flows_KK[c].sum()),
                "came": int(flows_KK[:, c].sum()),
                "kept_before": int((kept_old_N & (old_N == c)).sum()),
                "kept_after": int((kept_new_N & (new_N == c)).sum()),
            }
            for c, name in enumerate(names)
        ],
        "flows": [
            {"from": names[i // len(names)], "to": names[i % len(names)], "clips": int(flows_KK.flat[i])} for i in order
        ],
    }


def export_rows(labels: LabelVersion, clips: Sequence[tuple[str, str]], names: Sequence[str]) -> Iterator[Values]:
    """Yield the pseudo-label of every unlabelled clip; `clips` holds (clip_id, path) by manifest row."""
    thresholds_K = labels.adaptive_K.tolist()
    for row, label, distance, kept in zip(
        labels.rows_N.tolist(),
        labels.labels_N.tolist(),
        labels.distances_N.tolist(),
        labels.kept_N.tolist(),
        strict=True,
    ):
        clip_id, path = clips[row]
        yield {
            "clip_id": clip_id,
            "path": path,
            "label": names[label],
            "distance": distance,
            "threshold": thresholds_K[label],
            "kept": int(kept),
        }


def evaluated(store: ArtifactStore, epoch: int) -> Values:
    """Return the scalars of the evaluation of checkpoint `epoch`, empty if there is none yet."""
    if not store.evaluations.exists(epoch):
        return {}
    scalars: Any = store.evaluations.manifest(epoch).scalars["scalars"]
    return dict(scalars)
