"""One series of immutable, numbered versions, such as the checkpoints of a run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar
from uuid import uuid4

from pydantic import JsonValue

from aplt.common.artifacts import ArtifactRef, Record
from aplt.common.errors import (
    ArtifactTimeoutError,
    CorruptArtifactError,
    MissingArtifactError,
    StoreError,
    VersionExistsError,
)
from aplt.common.manifest import (
    ArtifactManifest,
    Provenance,
    describe_object,
    read_manifest,
    write_manifest,
)
from aplt.common.objects import Objects

T = TypeVar("T", bound=Record)

LONGEST_LOOK_S = 5.0

_VERSION_FOLDER = re.compile(r"v(\d{6,})")


class Series(Generic[T]):
    """The versions of one kind of record in one run. Reading methods see finished versions alone.

    Every method raises StoreError if the store cannot be reached, and CorruptArtifactError if a manifest is damaged.
    """

    def __init__(self, objects: Objects, run: str, name: str, record: type[T], number: Callable[[T], int] | None):
        """`number` tells which version a record says it is, for records that say so."""
        self.name = name
        self.folder = f"{run}/{name}"
        self._objects = objects
        self._record = record
        self._number = number
        self._run_argument = objects.run_argument(run)

    def publish(
        self,
        value: T,
        *,
        version: int,
        provenance: Provenance,
        parents: Sequence[ArtifactRef] = (),
        summary: Mapping[str, JsonValue] | None = None,
    ) -> ArtifactRef:
        """The reference of `value`, now published; VersionExistsError if somebody published this version before.

        The objects go under a name of this attempt alone, then the manifest is created if none is there: of several
        writers one wins, and nobody sees half a version.
        """
        if self._number is not None and self._number(value) != version:
            raise ValueError(f"{self.name} version {version} was to hold a record of {self._number(value)}")
        if self.exists(version):
            raise VersionExistsError(self._exists_message(version))
        objects = value.encode()
        manifest = ArtifactManifest(
            series=self.name,
            version=version,
            attempt=uuid4().hex[:16],
            provenance=provenance,
            parents=tuple(parents),
            summary=dict(summary or {}),
            scalars=value.to_scalars(),
            objects={name: describe_object(data) for name, data in sorted(objects.items())},
        )
        data = write_manifest(manifest)
        folder = self.attempt_folder(manifest)
        contents = {f"{folder}/{name}": content for name, content in objects.items()}
        self._objects.put_all(contents)
        if not self._objects.create(self._key(version), data):
            raise VersionExistsError(self._exists_message(version))
        # A writer that slept for long may have lost its objects to `gc`. From here on gc knows that they are needed.
        there = self._objects.exist_all(contents)
        if not all(there.values()):
            self._objects.put_all({key: content for key, content in contents.items() if not there[key]})
        self._objects.flush(self._key(version))
        return ArtifactRef(series=self.name, version=version, digest=manifest.digest)

    def exists(self, version: int) -> bool:
        """Whether this version is published."""
        return self._objects.exists(self._key(version))

    def versions(self) -> list[int]:
        """The published versions, ascending."""
        candidates = self.candidates()
        there = self._objects.exist_all(self._key(version) for version in candidates)
        return [version for version in candidates if there[self._key(version)]]

    def latest(self) -> ArtifactRef | None:
        """The reference of the newest version, None if there is none."""
        newest = next((version for version in reversed(self.candidates()) if self.exists(version)), None)
        return None if newest is None else self.ref(newest)

    def ref(self, version: int) -> ArtifactRef:
        """The reference of a version; MissingArtifactError if it is not there."""
        return self._read(version)[0]

    def manifest(self, version: int) -> ArtifactManifest:
        """The manifest of a version; MissingArtifactError if it is not there."""
        return self._read(version)[1]

    def load(self, version: int | ArtifactRef) -> T:
        """The record of a version, every byte verified; CorruptArtifactError names the object that is not as promised.

        Given a reference, the version must also hold what was referred to. MissingArtifactError if it is not there.
        """
        number = version if isinstance(version, int) else version.version
        ref, manifest = self._read(number)
        if isinstance(version, ArtifactRef) and ref != version:
            raise CorruptArtifactError(
                f"{self._key(number)} holds {ref.digest}, expected {version.series} {version.digest}: the version was "
                "replaced by another one after it was referred to; restore it or start a new run."
            )
        objects, problems = self._fetch(manifest)
        if problems:
            raise CorruptArtifactError(self._corrupt_message(number, problems[0]))
        return self._decode(manifest, objects)

    def wait(
        self,
        version: int,
        *,
        timeout_s: float,
        poll_s: float = 0.2,
        on_poll: Callable[[], object] | None = None,
        progress: Callable[[], Hashable] | None = None,
        describe: Callable[[], str] | None = None,
    ) -> ArtifactRef:
        """The reference of a version once it is published; ArtifactTimeoutError after `timeout_s` without it.

        `on_poll` is called between looks. The deadline starts again whenever the value of `progress()` changes; while
        this process itself is paused it stands still, because the other side may be paused too. `describe()` adds to
        the error who was last seen alive, and when.
        """
        start = last_look = time.monotonic()
        idle_s = 0.0
        last_progress = progress() if progress else None
        while not self.exists(version):
            if on_poll:
                on_poll()
            now = time.monotonic()
            idle_s += min(now - last_look, LONGEST_LOOK_S)
            last_look = now
            if progress and (current := progress()) != last_progress:
                last_progress, idle_s = current, 0.0
            if idle_s >= timeout_s:
                raise ArtifactTimeoutError(self._timeout_message(version, now - start, timeout_s, describe))
            time.sleep(min(poll_s, timeout_s - idle_s))
        return self.ref(version)

    def remove(self, version: int) -> None:
        """Remove a version, damaged or not; MissingArtifactError.

        The manifest goes first, so that the version is gone before its objects are.
        """
        if not self.exists(version):
            raise MissingArtifactError(self._missing_message(version))
        self._objects.delete(self._key(version))
        self._objects.delete_all(entry.key for entry in self._objects.walk(self.version_folder(version)))

    def damage(self, version: int) -> list[str]:
        """All reasons why a version cannot be loaded, one line each."""
        try:
            manifest = self.manifest(version)
            objects, problems = self._fetch(manifest)
            if not problems:
                self._decode(manifest, objects)
        except CorruptArtifactError as error:
            return [str(error)]
        return problems

    def strays(self, version: int) -> list[str]:
        """The keys beside a version's objects that its manifest does not promise."""
        manifest = self.manifest(version)
        folder = self.attempt_folder(manifest)
        promised = {f"{folder}/{name}" for name in manifest.objects}
        return [entry.key for entry in self._objects.walk(folder) if entry.key not in promised]

    def candidates(self) -> list[int]:
        """The versions that somebody began to write, published or not, ascending."""
        matches = (_VERSION_FOLDER.fullmatch(name) for name in self._objects.children(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def version_folder(self, version: int) -> str:
        """The folder of a version, below the store's URL."""
        if version < 0:
            raise ValueError(f"version is {version}, expected 0 or more")
        return f"{self.folder}/v{version:06d}"

    def attempt_folder(self, manifest: ArtifactManifest) -> str:
        """The folder of a version's objects, below the store's URL; a Zarr group is in data.zarr there."""
        return f"{self.version_folder(manifest.version)}/{manifest.attempt}"

    def _key(self, version: int) -> str:
        return f"{self.version_folder(version)}/manifest.json"

    def _read(self, version: int) -> tuple[ArtifactRef, ArtifactManifest]:
        data = self._objects.get(self._key(version))
        if data is None:
            raise MissingArtifactError(self._missing_message(version))
        try:
            manifest = read_manifest(data, series=self.name, version=version)
        except CorruptArtifactError as error:
            raise CorruptArtifactError(self._corrupt_message(version, f"{self._key(version)} {error}")) from None
        except StoreError as error:
            raise StoreError(
                f"{self._key(version)} in the store {self._objects.url} {error}; use the aplt that wrote the run, or "
                "start a new run."
            ) from None
        return ArtifactRef(series=self.name, version=version, digest=manifest.digest), manifest

    def _fetch(self, manifest: ArtifactManifest) -> tuple[dict[str, bytes], list[str]]:
        """The objects that are as promised, by name, and a line for each that is not."""
        folder = self.attempt_folder(manifest)
        found = self._objects.get_all(f"{folder}/{name}" for name in manifest.objects)
        objects, problems = {}, []
        for name, promised in manifest.objects.items():
            key = f"{folder}/{name}"
            data = found.pop(key)
            if data is None:
                problems.append(f"{key} is missing")
            elif len(data) != promised.bytes:
                problems.append(f"{key} has {len(data)} bytes, expected {promised.bytes}")
            elif describe_object(data) != promised:
                problems.append(f"{key} has another SHA-256 than its manifest promises")
            else:
                objects[name] = data
        return objects, problems

    def _decode(self, manifest: ArtifactManifest, objects: Mapping[str, bytes]) -> T:
        try:
            return self._record.decode(objects, manifest.scalars)
        except Exception as error:  # the decoders of several libraries, each with its own
            problem = f"{self.attempt_folder(manifest)} does not decode: {error}"
            raise CorruptArtifactError(self._corrupt_message(manifest.version, problem)) from error

    def _missing_message(self, version: int) -> str:
        there = ", ".join(map(str, self.versions())) or "none"
        return f"{self.folder} has no version {version} in the store {self._objects.url}; there: {there}."

    def _exists_message(self, version: int) -> str:
        return (
            f"{self.folder} version {version} exists already in the store {self._objects.url}; published versions "
            "never change. Use the one that is there, or another run name."
        )

    def _corrupt_message(self, version: int, problem: str) -> str:
        return (
            f"{self.folder} version {version} in the store {self._objects.url} is corrupt: {problem}. "
            f"Restore the file, or run `aplt store repair {self._run_argument}` and start the services, which make it "
            "again."
        )

    def _timeout_message(
        self, version: int, waited_s: float, timeout_s: float, describe: Callable[[], str] | None
    ) -> str:
        newest = max(self.versions(), default=None)
        seen = "no version was seen" if newest is None else f"the newest version seen is {newest}"
        without = "" if waited_s - timeout_s < 1 else f", the last {timeout_s:.0f} s of it without any progress"
        return (
            f"Waited {waited_s:.1f} s{without} for {self.folder} version {version} in the store {self._objects.url}; "
            f"{seen}. {describe() if describe else 'Is the service that publishes it running?'}"
        )
