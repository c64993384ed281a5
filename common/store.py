"""The artifact store: all that trainer and labeler share is a store URL and a run name.

<run>/labels/v000003/manifest.json                 created last; the version exists if and only if this does
<run>/labels/v000003/<attempt>/data.zarr/...       the objects that the manifest lists with their digests
<run>/<name>                                       small JSON objects of the run, which may change
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue

from aplt.common.artifacts import Checkpoint, Evaluation, FeatureSnapshot, LabelVersion
from aplt.common.errors import CorruptArtifactError, RunError
from aplt.common.garbage import GcReport, collect, find_problems
from aplt.common.manifest import is_intact, with_checksum
from aplt.common.objects import Objects
from aplt.common.series import Series

logger = logging.getLogger(__name__)

SERIES_NAMES = ("checkpoints", "features", "labels", "evaluations")

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ArtifactStore:
    """The artifacts of one run in the store at `url`.

    `url` is a directory (relative or file:///...), memory://name, s3://bucket/prefix, gs://... or az://...; `options`
    are endpoint, region, allow_http and the like, credentials come from the environment. A local directory is
    created. RunError for a bad run name, StoreError if the store cannot be reached.
    """

    def __init__(self, url: str, run: str, *, options: Mapping[str, str] | None = None) -> None:
        self.run = _check_run_name(run)
        self._use(Objects(url, options))

    def _use(self, objects: Objects) -> None:
        self._objects = objects
        self.url = objects.url
        self.checkpoints: Series[Checkpoint] = Series(
            objects, self.run, "checkpoints", Checkpoint, lambda value: value.epoch
        )
        self.features: Series[FeatureSnapshot] = Series(objects, self.run, "features", FeatureSnapshot, None)
        self.labels: Series[LabelVersion] = Series(
            objects, self.run, "labels", LabelVersion, lambda value: value.version
        )
        self.evaluations: Series[Evaluation] = Series(
            objects, self.run, "evaluations", Evaluation, lambda value: value.epoch
        )

    def with_patience(self, patience_s: float) -> Self:
        """The same run, whose store is asked again for so many seconds while it does not answer."""
        other = copy(self)
        other._use(self._objects.with_patience(patience_s))
        return other

    def __repr__(self) -> str:
        return f"ArtifactStore({self.url!r}, {self.run!r})"

    @staticmethod
    def runs(url: str, *, options: Mapping[str, str] | None = None) -> list[str]:
        """The names of the runs in the store at `url`: folders with a series or a JSON object in them."""
        if (path := Objects.local_path_of(url)) is not None and not path.is_dir():
            return []
        objects = Objects(url, options)
        names = [name for name in objects.children("") if _RUN_NAME.fullmatch(name)]
        return [
            name
            for name in names
            if set(objects.children(name)) & set(SERIES_NAMES)
            or any(entry.key.endswith(".json") for entry in objects.walk(name))
        ]

    @property
    def local_path(self) -> Path | None:
        """The run's directory if the store is on local disk."""
        return self._objects.local_path / self.run if self._objects.local_path else None

    def read_bytes(self, name: str) -> bytes | None:
        """The bytes of the run's object `name`, None if there is none."""
        return self._objects.get(self._key(name))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write the run's object `name`, at once and over any that was there."""
        self._objects.put(self._key(name), data)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The run's JSON object `name`, None if there is none; CorruptArtifactError if it is damaged."""
        data = self.read_bytes(name)
        if data is None:
            return None
        try:
            value = json.loads(data)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not is_intact(value):
            raise CorruptArtifactError(
                f"{self._key(name)} in the store {self.url} is damaged: it is not the JSON object that was written. "
                f"Restore it; or run `aplt store repair {self._objects.run_argument(self.run)}` and start the services."
            )
        return {key: item for key, item in value.items() if key != "checksum"}

    def read_note(self, name: str) -> dict[str, Any]:
        """The run's JSON object `name`, which the run can do without: empty if there is none or it is damaged."""
        try:
            return self.read_json(name) or {}
        except CorruptArtifactError as error:
            logger.debug("goes on without a damaged file: %s", error)
            return {}

    def write_json(self, name: str, value: Mapping[str, JsonValue]) -> None:
        """Write the run's JSON object `name`, at once and over any that was there."""
        self.write_bytes(name, _to_json(value))

    def create_json(self, name: str, value: Mapping[str, JsonValue]) -> bool:
        """Whether the run's JSON object `name` was written: not if there is one. Of several racing writers one wins."""
        return self._objects.create(self._key(name), _to_json(value))

    def delete(self, name: str) -> None:
        """Remove the run's object `name`, if there is one."""
        self._objects.delete(self._key(name))

    def remove_run(self) -> None:
        """Remove everything of the run."""
        if self.local_path is not None:
            shutil.rmtree(self.local_path, ignore_errors=True)
        else:
            self._objects.delete_all(f"{self.run}/{name}" for name in self.list_names())

    def list_names(self, prefix: str = "") -> list[str]:
        """The names of the run's objects in the folder `prefix` and below it."""
        folder = self._key(prefix) if prefix else self.run
        return [entry.key.removeprefix(f"{self.run}/") for entry in self._objects.walk(folder)]

    def gc(self, *, dry_run: bool = False, grace_s: float = 3600.0) -> GcReport:
        """What was removed (or would be): everything that no manifest reaches, of attempts idle for `grace_s`."""
        return collect(self._objects, self.run, self._all_series(), dry_run=dry_run, grace_s=grace_s)

    def damage(self) -> dict[tuple[str, int], list[str]]:
        """The versions that cannot be loaded, by series and number, each with the reasons."""
        damage = {
            (name, version): series.damage(version)
            for name, series in self._all_series().items()
            for version in series.versions()
        }
        return {version: reasons for version, reasons in damage.items() if reasons}

    def damaged_json(self) -> list[str]:
        """The names of the run's JSON objects that are damaged; manifests belong to `damage`."""
        names = [
            name for name in self.list_names() if name.endswith(".json") and name.split("/")[0] not in SERIES_NAMES
        ]
        damaged = []
        for name in names:
            try:
                self.read_json(name)
            except CorruptArtifactError:
                damaged.append(name)
        return damaged

    def verify(self) -> list[str]:
        """Everything that is wrong with the run's files, one line each; empty if nothing is."""
        notes = [f"{self._key(name)} is damaged" for name in self.damaged_json()]
        return find_problems(self._all_series()) + notes

    def series(self, name: str) -> Series[Any]:
        """The series called `name`, one of SERIES_NAMES."""
        return self._all_series()[name]

    def _all_series(self) -> dict[str, Series[Any]]:
        return {name: getattr(self, name) for name in SERIES_NAMES}

    def _key(self, name: str) -> str:
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise ValueError(f"object name is {name!r}, expected a relative path such as status/trainer.json")
        return f"{self.run}/{name}"


def split_run_url(url: str) -> tuple[str, str]:
    """The store URL and the run name in `url`: "runs/demo" is run demo in runs. RunError if there is no run name."""
    store, slash, run = url.rstrip("/").rpartition("/")
    if store.endswith(":/") or store.endswith(":"):
        raise RunError(f"{url!r} names a store but no run; write {url.rstrip('/')}/RUN.")
    if not slash:
        store = "."
    elif store in ("", "file://"):
        store += "/"
    return store, _check_run_name(run)


def _check_run_name(run: str) -> str:
    if not _RUN_NAME.fullmatch(run):
        raise RunError(
            f"The run name {run!r} cannot be used: expected 1 to 100 letters, digits, '.', '_' and '-', the first a "
            "letter or digit."
        )
    return run


def _to_json(value: Mapping[str, JsonValue]) -> bytes:
    return json.dumps(with_checksum(value), indent=1, ensure_ascii=False, allow_nan=False).encode()
