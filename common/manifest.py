"""The manifest of one published version: a version exists if and only if its manifest does."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from aplt.common.artifacts import ArtifactRef
from aplt.common.errors import CorruptArtifactError, StoreError

SCHEMA_NUMBER = 1


class Provenance(BaseModel):
    """Who made a version, where, when, and with which configuration and code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    host: str
    pid: int
    config_digest: str
    code_version: str
    created_at: str = Field(description="ISO 8601, UTC")

    def now(self) -> Provenance:
        """Return the same with the present time: what a long-lived service publishes with."""
        return self.model_copy(update={"created_at": datetime.now(UTC).isoformat()})


class ObjectEntry(BaseModel):
    """The promise about one object: its SHA-256 in hex and its size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int


class ArtifactManifest(BaseModel):
    """What a version consists of, what it came from, and the numbers that people look at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_number: int = SCHEMA_NUMBER
    series: str
    version: int
    attempt: str = Field(pattern=r"^[A-Za-z0-9-]+$")
    provenance: Provenance
    parents: tuple[ArtifactRef, ...] = ()
    summary: dict[str, JsonValue] = {}
    scalars: dict[str, JsonValue] = {}
    objects: dict[str, ObjectEntry]


def describe_object(data: bytes) -> ObjectEntry:
    """The promise about these bytes."""
    return ObjectEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def digest(data: bytes) -> str:
    """The digest of a manifest's bytes, as an ArtifactRef carries it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def write_manifest(manifest: ArtifactManifest) -> bytes:
    """The JSON of a manifest, with a checksum over itself. ValueError if a number in it is NaN or infinite."""
    body = manifest.model_dump(mode="json")
    return _to_json({**body, "checksum": _checksum(body)})


def read_manifest(data: bytes, *, name: str, series: str, version: int) -> ArtifactManifest:
    """The manifest in these bytes, which came from the object `name`.

    Raises CorruptArtifactError if a byte is not as it was written or it belongs to another version, and StoreError
    if another schema number wrote it.
    """
    try:
        body = json.loads(data)
        number = body["schema_number"]
        promised = body.pop("checksum", None)
        intact = promised == _checksum(body) and data == _to_json({**body, "checksum": promised})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorruptArtifactError(_corrupt(name, "it is not the JSON that was written")) from None
    if number != SCHEMA_NUMBER:
        raise StoreError(
            f"{name} has schema number {number!r}, this aplt reads {SCHEMA_NUMBER}; use the aplt version that wrote "
            "the run, or start a new run."
        )
    if not intact:
        raise CorruptArtifactError(_corrupt(name, "its checksum does not match its content"))
    try:
        manifest = ArtifactManifest.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CorruptArtifactError(_corrupt(name, f"{field}: {first['msg']}")) from None
    if (manifest.series, manifest.version) != (series, version):
        found = f"it describes {manifest.series} version {manifest.version}, expected {series} version {version}"
        raise CorruptArtifactError(_corrupt(name, found))
    return manifest


def _corrupt(name: str, reason: str) -> str:
    return f"{name} is corrupt: {reason}; remove this version and have it made again, or restore the file."


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(_to_json(body)).hexdigest()


def _to_json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False).encode()
