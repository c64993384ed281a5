"""The records that trainer and labeler exchange, numpy only; each knows how to become named bytes and back.

Shapes: N clips, K classes, D features. A field name's suffix is its shape, and one letter has one size per record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from pydantic import JsonValue

from aplt.common.encoding import Array, pack_tensors, pack_zarr, unpack_tensors, unpack_zarr

UNLABELED = -1

_TENSOR_KINDS = "biuf"  # numpy kinds: bool, signed, unsigned, float
_ARRAY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactRef:
    """One published version: its series, its number and the digest of what it holds (`ArtifactManifest.digest`)."""

    series: str
    version: int
    digest: str


class Record(Protocol):
    """What a `Series` can publish: objects hold the arrays, scalars go into the manifest for people to read."""

    def encode(self) -> dict[str, bytes]:
        """The objects to store, by name."""

    def to_scalars(self) -> dict[str, JsonValue]:
        """The fields that are not arrays."""

    @classmethod
    def decode(cls, objects: Mapping[str, bytes], scalars: Mapping[str, Any]) -> Self:
        """The record of these objects and scalars; any exception means that they do not fit together."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """The model after `epoch` finished epochs: weights to test, for anybody, and state for the trainer's own resume.

    Where a method tests other weights than it trains, the trained ones are in the state.

    online_labels_N (int16) holds the epoch's pseudo-label of each unlabelled clip, -1 where none passed; None if
    the method has none. Weights with NaN or infinity raise ValueError; state is the trainer's own affair.
    """

    epoch: int
    weights: dict[str, Array]
    state: dict[str, Array]
    online_labels_N: Array | None = None

    def __post_init__(self) -> None:
        _check_count("epoch", self.epoch)
        for field, tensors in (("weights", self.weights), ("state", self.state)):
            for name, tensor in tensors.items():
                _check_tensor(f"{field}[{name!r}]", tensor)
        for name, tensor in self.weights.items():
            _check_finite(f"weights[{name!r}]", tensor)
        if self.online_labels_N is not None:
            _check_array("online_labels_N", self.online_labels_N, np.int16, {})
            _check_labels("online_labels_N", self.online_labels_N)

    def encode(self) -> dict[str, bytes]:
        """weights.safetensors and state.safetensors, and data.zarr if there are online labels."""
        objects = {
            "weights.safetensors": pack_tensors(self.weights),
            "state.safetensors": pack_tensors(self.state),
        }
        if self.online_labels_N is not None:
            objects |= pack_zarr({"online_labels_N": self.online_labels_N})
        return objects

    def to_scalars(self) -> dict[str, JsonValue]:
        """The epoch."""
        return {"epoch": self.epoch}

    @classmethod
    def decode(cls, objects: Mapping[str, bytes], scalars: Mapping[str, Any]) -> Self:
        """The checkpoint that was encoded."""
        return cls(
            epoch=scalars["epoch"],
            weights=unpack_tensors(objects["weights.safetensors"]),
            state=unpack_tensors(objects["state.safetensors"]),
            online_labels_N=unpack_zarr(objects).get("online_labels_N"),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Table:
    """A record whose arrays, listed in ARRAYS with their types, are one Zarr group; the other fields are scalars."""

    ARRAYS: ClassVar[Mapping[str, type[np.generic]]]

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, dtype in self.ARRAYS.items():
            _check_array(name, getattr(self, name), dtype, sizes)
        for name, value in self.to_scalars().items():
            _check_scalar(name, value)
        self._check_values()

    def _check_values(self) -> None:
        raise NotImplementedError

    def encode(self) -> dict[str, bytes]:
        """The objects of the Zarr group."""
        return pack_zarr({name: getattr(self, name) for name in self.ARRAYS})

    def to_scalars(self) -> dict[str, JsonValue]:
        """The fields that are not arrays."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in self.ARRAYS}

    @classmethod
    def decode(cls, objects: Mapping[str, bytes], scalars: Mapping[str, Any]) -> Self:
        """The record that was encoded."""
        return cls(**unpack_zarr(objects), **scalars)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureSnapshot(_Table):
    """Features of training clips under one checkpoint.

    rows_N: manifest rows (int32); features_ND: float32; labels_N: int16, -1 for an unlabelled clip. A row occurs at
    most once as a labelled and once as an unlabelled clip (`data.unlabeled: all` makes labelled clips both).
    """

    ARRAYS: ClassVar[Mapping[str, type[np.generic]]] = {
        "rows_N": np.int32,
        "features_ND": np.float32,
        "labels_N": np.int16,
    }

    epoch: int
    rows_N: Array
    features_ND: Array
    labels_N: Array

    def _check_values(self) -> None:
        _check_count("epoch", self.epoch)
        _check_rows("rows_N of labelled clips", self.rows_N[self.labels_N != UNLABELED])
        _check_rows("rows_N of unlabelled clips", self.rows_N[self.labels_N == UNLABELED])
        _check_labels("labels_N", self.labels_N)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelVersion(_Table):
    """Pseudo-labels and prototypes of one phase: one record, because they are valid only together.

    rows_N are the manifest rows of the unlabelled clips alone; rejected clips stay, with kept_N false, so that the
    thresholds can be audited. distances_N is the distance to the assigned centroid, or for labels from the
    parametric head 1 - its confidence, and adaptive_K what it must lie below to be kept; support_K counts the clips
    behind each prototype; ratio is the global threshold over the largest local one.
    """

    ARRAYS: ClassVar[Mapping[str, type[np.generic]]] = {
        "rows_N": np.int32,
        "labels_N": np.int16,
        "distances_N": np.float32,
        "kept_N": np.bool_,
        "centroids_KD": np.float32,
        "prototypes_KD": np.float32,
        "support_K": np.int64,
        "local_K": np.float32,
        "adaptive_K": np.float32,
    }

    version: int
    epoch: int
    rows_N: Array
    labels_N: Array
    distances_N: Array
    kept_N: Array
    centroids_KD: Array
    prototypes_KD: Array
    support_K: Array
    local_K: Array
    adaptive_K: Array
    global_threshold: float
    ratio: float
    num_iterations: int
    converged: bool

    def _check_values(self) -> None:
        for name in ("version", "epoch", "num_iterations"):
            _check_count(name, getattr(self, name))
        _check_rows("rows_N", self.rows_N)
        num_classes = len(self.centroids_KD)
        if self.labels_N.size and not 0 <= self.labels_N.min() <= self.labels_N.max() < num_classes:
            low, high = self.labels_N.min(), self.labels_N.max()
            raise ValueError(f"labels_N ranges over {low}..{high}, expected 0..{num_classes - 1}")
        for name in ("distances_N", "support_K"):
            if getattr(self, name).size and getattr(self, name).min() < 0:
                raise ValueError(f"{name} holds {getattr(self, name).min()}, expected no negative value")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """What needs ground truth about one checkpoint: named numbers, and named arrays such as predictions."""

    epoch: int
    scalars: dict[str, float]
    arrays: dict[str, Array]

    def __post_init__(self) -> None:
        _check_count("epoch", self.epoch)
        for name, value in self.scalars.items():
            _check_scalar(f"scalars[{name!r}]", value)
        for name, array in self.arrays.items():
            if not _ARRAY_NAME.fullmatch(name):
                raise ValueError(f"arrays has the name {name!r}, expected letters, digits, '_', '.' and '-'")
            _check_tensor(f"arrays[{name!r}]", array)
            _check_finite(f"arrays[{name!r}]", array)

    def encode(self) -> dict[str, bytes]:
        """The objects of the Zarr group that holds the arrays."""
        return pack_zarr(self.arrays)

    def to_scalars(self) -> dict[str, JsonValue]:
        """The epoch and the named numbers."""
        return {"epoch": self.epoch, "scalars": dict(self.scalars)}

    @classmethod
    def decode(cls, objects: Mapping[str, bytes], scalars: Mapping[str, Any]) -> Self:
        """The evaluation that was encoded."""
        return cls(epoch=scalars["epoch"], scalars=dict(scalars["scalars"]), arrays=unpack_zarr(objects))


def _check_array(name: str, array: object, dtype: type[np.generic], sizes: dict[str, int]) -> None:
    """Check type and finiteness, and the shape against the letters of the name's suffix, which `sizes` collects."""
    suffix = name.rpartition("_")[2]
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != len(suffix):
        found = f"{array.dtype}{array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} is {found}, expected an array of {np.dtype(dtype)} with axes {suffix}")
    for letter, size in zip(suffix, array.shape, strict=True):
        if sizes.setdefault(letter, size) != size:
            raise ValueError(f"{name} has shape {array.shape}, expected {letter} = {sizes[letter]}")
    _check_finite(name, array)


def _check_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind not in _TENSOR_KINDS or not tensor.dtype.isnative:
        found = tensor.dtype if isinstance(tensor, np.ndarray) else type(tensor).__name__
        raise ValueError(f"{name} is {found}, expected a numpy array of floats, integers or booleans")


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(array))} values that are NaN or infinite")


def _check_scalar(name: str, value: object) -> None:
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r} ({type(value).__name__}), expected a finite Python number")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {value!r}, expected an integer from 0 up")


def _check_rows(name: str, rows_N: Array) -> None:
    if rows_N.size and rows_N.min() < 0:
        raise ValueError(f"{name} holds {rows_N.min()}, expected manifest rows from 0 up")
    if rows_N.size and not np.all(rows_N[1:] > rows_N[:-1]) and len(np.unique(rows_N)) != len(rows_N):
        raise ValueError(f"{name} names {len(rows_N) - len(np.unique(rows_N))} rows twice, expected distinct rows")


def _check_labels(name: str, labels_N: Array) -> None:
    if labels_N.size and labels_N.min() < UNLABELED:
        raise ValueError(f"{name} holds {labels_N.min()}, expected a class index or {UNLABELED}")
