"""What is wrong with a run's versions, and what no version needs any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aplt.common.artifacts import ArtifactRef
from aplt.common.errors import CorruptArtifactError
from aplt.common.objects import Objects, StoredObject
from aplt.common.series import Series


@dataclass(frozen=True, kw_only=True, slots=True)
class GcReport:
    """The keys that a collection removed, or would have, and their bytes."""

    keys: list[str]
    num_bytes: int
    dry_run: bool


def collect(
    objects: Objects, run: str, all_series: Mapping[str, Series[Any]], *, dry_run: bool, grace_s: float
) -> GcReport:
    """What was removed: attempts that no manifest names, once none of their objects changed for `grace_s` seconds.

    The grace keeps an attempt that is still being written. A version whose manifest is damaged keeps everything.
    """
    now = datetime.now(UTC)
    garbage: list[StoredObject] = []
    for series in all_series.values():
        for version in series.candidates():
            for attempt in _orphans(objects, series, version):
                if min((now - entry.modified).total_seconds() for entry in attempt) >= grace_s:
                    garbage += attempt
    staging = [entry for entry in objects.walk_staging(run) if (now - entry.modified).total_seconds() >= grace_s]
    if not dry_run:
        objects.delete_all(entry.key for entry in garbage)
        for entry in staging:
            objects.delete_staging(entry.key)
    removed = garbage + staging
    return GcReport(
        keys=[entry.key for entry in removed], num_bytes=sum(entry.size for entry in removed), dry_run=dry_run
    )


def find_problems(all_series: Mapping[str, Series[Any]]) -> list[str]:
    """One line for everything that is not as a manifest promises, and for every parent that was replaced."""
    problems = []
    refs: dict[tuple[str, int], ArtifactRef] = {}
    parents: list[tuple[str, ArtifactRef]] = []
    for name, series in all_series.items():
        for version in series.versions():
            damage = series.damage(version)
            problems += damage
            try:
                manifest = series.manifest(version)
            except CorruptArtifactError:
                continue  # series.damage has said so
            problems += [f"{key} is not in the manifest" for key in series.strays(version)]
            parents += [(f"{series.folder} version {version}", ref) for ref in manifest.parents]
            if not damage:
                refs[name, version] = series.ref(version)
    for child, parent in parents:
        # A parent may have been removed to save space, but not replaced.
        found = refs.get((parent.series, parent.version), parent)
        if found != parent:
            problems.append(f"{child} was made from {parent.series} version {parent.version}, which is another one now")
    return problems


def _orphans(objects: Objects, series: Series[Any], version: int) -> list[list[StoredObject]]:
    """The objects of each attempt at a version that its manifest does not name."""
    folder = series.version_folder(version)
    attempts: dict[str, list[StoredObject]] = {}
    for entry in objects.walk(folder):
        attempt, slash, _ = entry.key.removeprefix(f"{folder}/").partition("/")
        if slash:
            attempts.setdefault(attempt, []).append(entry)
    # The manifest is read after the listing: one published in between names an attempt that is kept.
    if series.exists(version):
        try:
            attempts.pop(series.manifest(version).attempt, None)
        except CorruptArtifactError:
            return []
    return list(attempts.values())
