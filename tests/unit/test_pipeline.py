"""One offline phase as a whole, on numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from aplt.common.artifacts import LabelVersion
from aplt.labeler.evaluation import accuracy_scalars, label_quality, online_quality, prototype_predictions
from aplt.labeler.pipeline import label_summary, make_labels

LABELED = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]])
LABELS = torch.tensor([0, 0, 1, 1])
UNLABELED = torch.tensor([[x, 1.0] for x in (1.0, 2.0, 4.0, 5.5, 6.0, 9.0, 12.0)])


def labels_of(**changes: Any) -> LabelVersion:
    settings: dict[str, Any] = {
        "version": 1,
        "epoch": 3,
        "rows_N": np.arange(10, 17, dtype=np.int32),
        "unlabeled_ND": UNLABELED,
        "labeled_MD": LABELED,
        "labels_M": LABELS,
        "augmented_AD": None,
        "augmented_labels_A": None,
        "num_classes": 2,
        "normalize": "none",
        "max_iterations": 100,
        "tolerance": 1e-4,
        "sat_scale": 1.0,
        "filtered_prototypes": True,
    }
    return make_labels(**(settings | changes))


def test_clustering_thresholds_and_prototypes_together() -> None:
    labels = labels_of()
    assert labels.labels_N.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert labels.kept_N.tolist() == [True, True, False, False, False, True, False]
    assert labels.prototypes_KD == pytest.approx(np.array([[0.75, 1], [29 / 3, 1]]), abs=1e-5)
    assert labels.support_K.tolist() == [4, 3]
    assert labels.global_threshold == pytest.approx(1.871429, abs=1e-5)
    assert labels.ratio == pytest.approx(1.871429 / 2.375, abs=1e-5)
    summary = label_summary(labels)
    assert (summary["kept"], summary["clips"]) == (3, 7)


def test_prototypes_of_all_clips() -> None:
    labels = labels_of(filtered_prototypes=False)
    assert labels.prototypes_KD == pytest.approx(np.array([[1.4, 1], [8.75, 1]]), abs=1e-5)


def test_augmented_copies_steer_the_clustering_but_not_the_prototypes() -> None:
    shifted = labels_of(augmented_AD=LABELED + torch.tensor([4.0, 0.0]), augmented_labels_A=LABELS)
    assert shifted.centroids_KD[0, 0] > labels_of().centroids_KD[0, 0]
    assert shifted.support_K.sum() == 4 + shifted.kept_N.sum()


def test_unit_length_gives_unit_prototypes() -> None:
    labels = labels_of(normalize="l2", labeled_MD=LABELED + 1)
    assert np.linalg.norm(labels.prototypes_KD, axis=1) == pytest.approx(1.0, abs=1e-6)


def test_prototypes_classify_by_the_largest_dot_product() -> None:
    features = np.array([[3.0, 0.1], [0.2, 5.0]], dtype=np.float32)
    prototypes = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    assert prototype_predictions(features, prototypes, normalize="l2").tolist() == [1, 0]
    long = np.array([[0.0, 100.0], [1.0, 0.0]], dtype=np.float32)
    assert prototype_predictions(features, long, normalize="none").tolist() == [0, 0]


def test_accuracy_counts_known_clips_alone_and_macro_weighs_classes_equally() -> None:
    truth = np.array([0, 0, 0, 1, -1], dtype=np.int16)
    predictions = np.array([0, 0, 0, 0, 1], dtype=np.int16)
    scalars = accuracy_scalars(predictions, truth, num_classes=3, prefix="head")
    assert scalars == {"head/accuracy": 0.75, "head/macro": 0.5, "head/class_0": 1.0, "head/class_1": 0.0}
    assert accuracy_scalars(predictions, np.full(5, -1, dtype=np.int16), num_classes=3, prefix="head") == {}


def test_label_quality_against_ground_truth() -> None:
    truth = np.full(20, -1, dtype=np.int16)
    truth[10:17] = [0, 1, 0, 1, 1, 1, 0]
    quality = label_quality(labels_of(), truth, num_classes=2)
    assert quality["labels/precision"] == pytest.approx(2 / 3)
    assert quality["labels/accuracy_all"] == pytest.approx(5 / 7)
    assert quality["labels/precision_class_0"] == 0.5
    assert quality["labels/precision_class_1"] == 1.0


def test_online_quality() -> None:
    rows = np.arange(4, dtype=np.int32)
    truth = np.array([0, 1, 1, -1], dtype=np.int16)
    values = online_quality(np.array([0, 0, -1, 1], dtype=np.int16), rows, truth)
    assert values == {"online/passed_share": 0.75, "online/precision": 0.5}
