"""Records refuse what would not make sense on the other side."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aplt.common.artifacts import ArtifactRef, Checkpoint, Evaluation, FeatureSnapshot, LabelVersion
from aplt.common.encoding import Array, pack_tensors, pack_zarr, unpack_tensors, unpack_zarr


def make_labels(**changes: object) -> LabelVersion:
    fields: dict[str, Any] = {
        "version": 1,
        "epoch": 15,
        "rows_N": np.array([4, 0, 2], np.int32),
        "labels_N": np.array([1, 0, 1], np.int16),
        "distances_N": np.array([0.5, 0.25, 1], np.float32),
        "kept_N": np.array([True, True, False]),
        "centroids_KD": np.ones((2, 5), np.float32),
        "prototypes_KD": np.ones((2, 5), np.float32),
        "support_K": np.array([3, 0]),
        "local_K": np.array([0.5, 0.25], np.float32),
        "adaptive_K": np.array([0.5, 0.25], np.float32),
        "global_threshold": 0.375,
        "ratio": 0.75,
        "num_iterations": 2,
        "converged": True,
    }
    return LabelVersion(**{**fields, **changes})


def make_features(**changes: object) -> FeatureSnapshot:
    fields: dict[str, Any] = {
        "epoch": 15,
        "rows_N": np.array([4, 0, 2], np.int32),
        "features_ND": np.ones((3, 5), np.float32),
        "labels_N": np.array([-1, 0, -1], np.int16),
    }
    return FeatureSnapshot(**{**fields, **changes})


def make_checkpoint(**changes: object) -> Checkpoint:
    fields: dict[str, Any] = {"epoch": 1, "weights": {"w": np.ones(2, np.float32)}, "state": {}}
    return Checkpoint(**{**fields, **changes})


def make_evaluation(**changes: object) -> Evaluation:
    fields: dict[str, Any] = {"epoch": 1, "scalars": {"top1": 0.5}, "arrays": {"predictions": np.ones(2, np.int16)}}
    return Evaluation(**{**fields, **changes})


@pytest.mark.parametrize(
    ("make", "changes", "expected"),
    [
        (make_labels, {"rows_N": np.array([4, 0, 2])}, "rows_N is int64.*expected an array of int32 with axes N"),
        (make_labels, {"rows_N": [4, 0, 2]}, "rows_N is list, expected an array"),
        (make_labels, {"rows_N": np.array([4, 0, 4], np.int32)}, "rows_N names 1 rows twice"),
        (make_labels, {"rows_N": np.array([4, -1, 2], np.int32)}, "rows_N holds -1"),
        (make_labels, {"labels_N": np.array([1, 0], np.int16)}, r"labels_N has shape \(2,\), expected N = 3"),
        (make_labels, {"labels_N": np.array([1, 0, 2], np.int16)}, r"labels_N ranges over 0\.\.2, expected 0\.\.1"),
        (make_labels, {"labels_N": np.array([1, 0, -1], np.int16)}, r"labels_N ranges over -1\.\.1"),
        (make_labels, {"distances_N": np.array([1, np.nan, 1], np.float32)}, "distances_N holds 1 values that are NaN"),
        (make_labels, {"distances_N": np.array([1, -1, 1], np.float32)}, "distances_N holds -1"),
        (make_labels, {"prototypes_KD": np.ones((2, 4), np.float32)}, "prototypes_KD .*expected D = 5"),
        (make_labels, {"centroids_KD": np.ones((2, 5), ">f4")}, "centroids_KD is >f4"),
        (make_labels, {"ratio": float("nan")}, "ratio is nan"),
        (make_labels, {"ratio": np.float32(1)}, r"ratio is np\.float32\(1\.0\) \(float32\), expected a finite Python"),
        (make_labels, {"version": -1}, "version is -1"),
        (make_features, {"features_ND": np.full((3, 5), np.inf, np.float32)}, "features_ND holds 15 values"),
        (make_features, {"features_ND": np.ones(3, np.float32)}, "features_ND is float32.*with axes ND"),
        (make_features, {"labels_N": np.array([-2, 0, 0], np.int16)}, "labels_N holds -2"),
        (make_features, {"rows_N": np.array([4, 0, 4], np.int32)}, "rows_N of unlabelled clips names 1 rows twice"),
        (make_features, {"epoch": 1.0}, "epoch is 1.0"),
        (make_checkpoint, {"weights": {"w": np.array([np.nan])}}, r"weights\['w'\] holds 1 values that are NaN"),
        (make_checkpoint, {"weights": {"w": np.array(["x"])}}, r"weights\['w'\] is <U1"),
        (make_checkpoint, {"state": {"s": np.array([None])}}, r"state\['s'\] is object"),
        (make_checkpoint, {"state": {"s": 1.0}}, r"state\['s'\] is float, expected a numpy array"),
        (make_checkpoint, {"online_labels_N": np.array([0])}, "online_labels_N is int64"),
        (make_evaluation, {"scalars": {"top1": float("inf")}}, r"scalars\['top1'\] is inf"),
        (make_evaluation, {"arrays": {"a/b": np.ones(1)}}, "has the name 'a/b'"),
        (make_evaluation, {"arrays": {"a": np.array([np.nan])}}, r"arrays\['a'\] holds 1 values"),
    ],
)
def test_bad_fields_are_refused(make: Callable[..., object], changes: dict[str, object], expected: str) -> None:
    make()
    with pytest.raises(ValueError, match=expected):
        make(**changes)


def test_a_clip_may_be_a_labelled_and_an_unlabelled_one() -> None:
    rows = np.array([4, 0, 0], np.int32)
    assert make_features(rows_N=rows, labels_N=np.array([-1, 0, -1], np.int16)).rows_N is rows


def test_empty_records_survive() -> None:
    empty = make_labels(
        rows_N=np.zeros(0, np.int32),
        labels_N=np.zeros(0, np.int16),
        distances_N=np.zeros(0, np.float32),
        kept_N=np.zeros(0, bool),
    )
    loaded = LabelVersion.decode(empty.encode(), json.loads(json.dumps(empty.to_scalars())))
    assert loaded.rows_N.shape == (0,)
    assert loaded.kept_N.dtype == bool
    assert Evaluation.decode(*encoded(Evaluation(epoch=0, scalars={}, arrays={}))).arrays == {}


def test_training_state_may_hold_infinity() -> None:
    state: dict[str, Array] = {"best": np.array(-np.inf), "scale": np.array([1.5, np.nan], np.float32)}
    loaded = Checkpoint.decode(*encoded(make_checkpoint(state=state))).state
    assert loaded["best"] == -np.inf
    np.testing.assert_array_equal(loaded["scale"], state["scale"])


def test_tensors_keep_their_values_shapes_and_types() -> None:
    tensors: dict[str, Array] = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "strided": np.arange(10, dtype=np.int64)[::3],
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.int16),
        "bytes": np.arange(256, dtype=np.uint8),
        "flags": np.array([True, False]),
    }
    loaded = unpack_tensors(pack_tensors(tensors))
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(loaded[name], tensor)


def test_zarr_keeps_views_and_scalars() -> None:
    arrays: dict[str, Array] = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.array(3, np.int16),
    }
    loaded = unpack_zarr(pack_zarr(arrays))
    np.testing.assert_array_equal(loaded["transposed"], arrays["transposed"])
    assert loaded["scalar"].shape == ()
    assert loaded["scalar"] == 3


def test_a_lost_zarr_chunk_is_not_read_as_zeros() -> None:
    objects = pack_zarr({"a": np.ones(4, np.float32)})
    del objects["data.zarr/a/c/0"]
    with pytest.raises(ValueError, match="array a has 0 chunks stored, expected 1"):
        unpack_zarr(objects)


def test_equal_records_have_equal_bytes() -> None:
    assert make_labels().encode() == make_labels().encode()
    assert make_checkpoint().encode() == make_checkpoint().encode()


def test_references_compare_by_value() -> None:
    ref = ArtifactRef(series="labels", version=1, digest="sha256:0")
    assert {ref: 1}[ArtifactRef(series="labels", version=1, digest="sha256:0")] == 1
    assert ref != ArtifactRef(series="labels", version=1, digest="sha256:1")


def encoded(record: Checkpoint | Evaluation) -> tuple[dict[str, bytes], dict[str, Any]]:
    return record.encode(), dict(record.to_scalars())
