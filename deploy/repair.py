"""What is damaged in a run, and what becomes of it: `aplt store repair`."""

from __future__ import annotations

from dataclasses import dataclass

from aplt.common.store import ArtifactStore
from aplt.deploy.runs import DATA, RECORD

CURES = {
    "checkpoints": "made again from the one before, if training or labels still need it",
    "features": "made again, if labels still need it",
    "labels": "the labeler makes it again",
}
JSON_CURES = {
    RECORD: "the next start of a service records the configuration again",
    DATA: "the next start of a service records the prepared data again",
}


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One version that cannot be loaded, or one file of the run that cannot be read (`version` is None)."""

    series: str
    version: int | None
    reason: str
    cure: str

    @property
    def name(self) -> str:
        """What people call it."""
        return self.series if self.version is None else f"{self.series} version {self.version}"


def find_damage(store: ArtifactStore) -> list[Damage]:
    """Return what is damaged in a run. Reads every byte of it.

    Raises:
        StoreError: something there is not damaged, but of another version of aplt.
    """
    versions = [
        Damage(series=series, version=version, reason="; ".join(reasons), cure=_cure(store, series, version))
        for (series, version), reasons in store.damage().items()
    ]
    files = [
        Damage(series=name, version=None, reason="is not what was written", cure=JSON_CURES.get(name, "not needed"))
        for name in store.damaged_json()
    ]
    return versions + files


def remove_damage(store: ArtifactStore, damage: list[Damage]) -> None:
    """Remove damaged versions and files; what needs them makes them again."""
    for item in damage:
        if item.version is None:
            store.delete(item.series)
        else:
            store.series(item.series).remove(item.version)


def _cure(store: ArtifactStore, series: str, version: int) -> str:
    if series in CURES:
        return CURES[series]
    if store.checkpoints.exists(version):
        return "the labeler makes it again"
    return "its checkpoint was removed to save space, so the report will leave this epoch out"
