"""The manifest of one published version: a version exists if and only if its manifest does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from aplt.common.artifacts import ArtifactRef
from aplt.common.errors import CorruptArtifactError, StoreError

SCHEMA_NUMBER = 1

# Below the attempt's folder, and never out of it: no part is empty, `.` or `..`.
ObjectName = Annotated[str, Field(pattern=r"^\.?[A-Za-z0-9_-][A-Za-z0-9_.-]*(/\.?[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$")]


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
    objects: dict[ObjectName, ObjectEntry]

    @property
    def digest(self) -> str:
        """SHA-256 of what the version holds, not of who made it when: made again to the bit, it is the same."""
        content = self.model_dump(mode="json", include={"series", "version", "scalars", "objects"})
        return f"sha256:{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}"


def describe_object(data: bytes) -> ObjectEntry:
    """The promise about these bytes."""
    return ObjectEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def write_manifest(manifest: ArtifactManifest) -> bytes:
    """The JSON of a manifest, with a checksum over itself. ValueError if a number in it is NaN or infinite."""
    return _to_json(with_checksum(manifest.model_dump(mode="json")))


def with_checksum(body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The same JSON object with a checksum over itself."""
    return {**body, "checksum": _checksum(body)}


def is_intact(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object that says its checksum has it."""
    body = dict(value)
    return "checksum" not in body or body.pop("checksum") == _checksum(body)


def read_manifest(data: bytes, *, series: str, version: int) -> ArtifactManifest:
    """The manifest in these bytes.

    Raises CorruptArtifactError if a byte is not as it was written or it belongs to another version, and StoreError
    if another version of aplt wrote it. The message says what is wrong, not where.
    """
    try:
        body = json.loads(data)
        number = body["schema_number"]
        promised = body.pop("checksum", None)
        intact = promised == _checksum(body) and data == _to_json({**body, "checksum": promised})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorruptArtifactError("is not the JSON that was written") from None
    # If the checksum is right for our number, that number alone is damaged.
    if number != SCHEMA_NUMBER and promised != _checksum({**body, "schema_number": SCHEMA_NUMBER}):
        raise StoreError(f"has schema number {number!r}, this aplt reads {SCHEMA_NUMBER}")
    if not intact:
        raise CorruptArtifactError("has another checksum than its content")
    try:
        manifest = ArtifactManifest.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise StoreError(f"has a field {field} that this aplt does not know") from None
        raise CorruptArtifactError(f"has a bad field {field}: {first['msg']}") from None
    if (manifest.series, manifest.version) != (series, version):
        raise CorruptArtifactError(
            f"describes {manifest.series} version {manifest.version}, expected {series} version {version}"
        )
    return manifest


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_to_json(body)).hexdigest()


def _to_json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(body), indent=1, ensure_ascii=False, allow_nan=False).encode()
