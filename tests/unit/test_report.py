"""The report of a small run with known numbers: the summary exactly, every picture by its size."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import pytest
from matplotlib.image import imread
from pydantic import JsonValue

from aplt.common.artifacts import Evaluation, LabelVersion
from aplt.common.config import (
    BaseRunConfig,
    DataConfig,
    Head,
    LabelerConfig,
    MethodConfig,
    ScheduleConfig,
    StoreConfig,
)
from aplt.common.data.cache import CacheWriter, ClipCache, cache_settings
from aplt.common.data.datasets.dataset import named_classes
from aplt.common.data.frames import Frames
from aplt.common.data.manifest import Clip, Manifest, csv_text, manifest_text, write_text
from aplt.common.data.prepared import CLASSES, MANIFEST, TRUTH, PreparedData, classes_text
from aplt.common.drawing import HEIGHT, WIDTH
from aplt.common.manifest import Provenance
from aplt.common.store import ArtifactStore
from aplt.labeler.contact_sheets import pick_clips, relative_distances
from aplt.labeler.pipeline import label_summary
from aplt.labeler.report import summary_rows, write_report

START = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
NAMES = ("nod $x$", "shake/head", "wave")
PROVENANCE = Provenance(role="labeler", host="h", pid=1, config_digest="d", code_version="0", created_at="2025")


class WithLabels(MethodConfig):
    @property
    def uses_labels(self) -> bool:
        return True

    @property
    def tested_head(self) -> Head:
        return "prototypes"


def config_of(prepared: Path, *, uses_labels: bool = True) -> BaseRunConfig:
    return BaseRunConfig(
        run="small",
        store=StoreConfig(url=f"memory://{uuid4().hex}"),
        data=DataConfig(root=Path("/nowhere"), prepared=prepared),
        method=WithLabels(name="aplt") if uses_labels else MethodConfig(name="supervised"),
        schedule=ScheduleConfig(warmup_epochs=2, epochs=2, phase_epochs=2, lead_epochs=1),
    )


def prepare(folder: Path, *, names: tuple[str, ...] = NAMES, known: bool = True) -> PreparedData:
    """Write what `load_truth` reads, and return 30 clips: rows 0-5 labelled, 6-23 unlabelled, 24-29 test."""
    manifest = Manifest.of(Clip(clip_id=f"c{i:02d}", video=f"c{i:02d}.mp4") for i in range(30))
    write_text(folder / MANIFEST, manifest_text(manifest))
    write_text(folder / CLASSES, classes_text(named_classes(names)))
    truth = [(clip.clip_id, names[i % len(names)]) for i, clip in enumerate(manifest)] if known else []
    write_text(folder / TRUTH, csv_text(("clip_id", "label"), truth))
    settings = cache_settings(num_segments=4, frames_per_segment=2, size=16, fit="crop")
    with CacheWriter(folder / "cache", settings=settings, identities=[[clip.clip_id] for clip in manifest]) as cache:
        for row, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (30, 8, 16, 16, 3), dtype=np.uint8)):
            cache.add(row, Frames(pixels, 15.0, 8, 64, 48))
        cache.finish()
    return PreparedData(
        manifest=manifest,
        class_names=names,
        labeled_rows_M=np.arange(6, dtype=np.int32),
        labels_M=(np.arange(6) % len(names)).astype(np.int16),
        unlabeled_rows_N=np.arange(6, 24, dtype=np.int32),
        test_rows_T=np.arange(24, 30, dtype=np.int32),
        clips=ClipCache.open(folder / "cache"),
        digest="",
    )


def labels_of(version: int, epoch: int, *, num_classes: int = 3) -> LabelVersion:
    """Six clips of each class at distances 0.1 ... 0.6 (times version); those below 0.35 are kept."""
    order = np.arange(18)
    distances_N = (0.1 * version * (1 + order // 3)).astype(np.float32)
    adaptive_K = np.full(num_classes, 0.35 * version, np.float32)
    labels_N = (order % num_classes).astype(np.int16)
    return LabelVersion(
        version=version,
        epoch=epoch,
        rows_N=np.arange(6, 24, dtype=np.int32),
        labels_N=labels_N,
        distances_N=distances_N,
        kept_N=distances_N < adaptive_K[labels_N],
        centroids_KD=np.ones((num_classes, 2), np.float32),
        prototypes_KD=np.ones((num_classes, 2), np.float32),
        support_K=np.full(num_classes, 5, np.int64),
        local_K=adaptive_K,
        adaptive_K=adaptive_K,
        global_threshold=0.35 * version,
        ratio=0.75,
        num_iterations=3,
        converged=True,
    )


def span(what: str, start: float, seconds: float) -> dict[str, JsonValue]:
    return {"what": what, "start": START + start, "seconds": seconds}


def publish_labels(store: ArtifactStore, labels: LabelVersion, *, start: float) -> None:
    spans = [span("extract", start, 3.0), span("cluster", start + 3, 1.5)]
    summary: dict[str, Any] = label_summary(labels) | {"spans": spans}
    store.labels.publish(labels, version=labels.version, summary=summary, provenance=PROVENANCE)


def publish_evaluation(store: ArtifactStore, epoch: int, **scalars: float) -> None:
    named = {name.replace("__", "/"): value for name, value in scalars.items()}
    store.evaluations.publish(Evaluation(epoch=epoch, scalars=named, arrays={}), version=epoch, provenance=PROVENANCE)


def small_run(config: BaseRunConfig) -> ArtifactStore:
    store = ArtifactStore(config.store.url, config.run)
    store.write_json("run.json", {"created_at": datetime.fromtimestamp(START, UTC).isoformat()})
    publish_labels(store, labels_of(1, 1), start=25)
    publish_labels(store, labels_of(2, 4), start=100)
    both = {"labels__precision": 0.9, "labels__accuracy_all": 0.6}
    publish_evaluation(store, 1, head__accuracy=0.4, head__macro=0.35, **both)
    publish_evaluation(store, 2, head__accuracy=0.5, head__macro=0.45, online__passed_share=0.3, online__precision=0.8)
    final = {"head__accuracy": 0.6, "head__macro": 0.55, "prototypes__accuracy": 0.7, "prototypes__macro": 0.65}
    final |= {"prototypes_before__accuracy": 0.75, "prototypes_before__macro": 0.72}
    final |= {"prototypes__class_0": 0.9, "prototypes__class_1": 0.2, "prototypes__class_2": 1.0}
    publish_evaluation(store, 4, **final, labels__precision=0.5, labels__accuracy_all=0.6)
    trainer: list[JsonValue] = [span("train", 10 + 20 * i, 15.0) for i in range(4)]
    trainer += [span("wait", 45.0, 5.0), span("publish", 90, 1)]
    store.write_json("services/trainer/spans/000001-000000.json", {"spans": trainer})
    labeler: list[JsonValue] = [
        span("wait", 10, 15.0),
        span("extract", 25, 3),
        span("cluster", 28, 1.5),
        span("evaluate", 100, 9.0),
    ]
    store.write_json("services/labeler/spans/000001-000000.json", {"spans": labeler})
    return store


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactStore, dict[str, Any]]:
    """The store of the small run and its summary."""
    folder = tmp_path_factory.mktemp("prepared")
    config = config_of(folder)
    store = small_run(config)
    return store, write_report(store, config, prepare(folder))


def test_summary_of_a_small_run_is_exact(reported: tuple[ArtifactStore, dict[str, Any]]) -> None:
    store, summary = reported

    assert store.read_json("report/summary.json") == summary
    assert summary["run"] == "small"
    assert summary["method"] == "aplt"
    assert summary["tested_head"] == "prototypes"
    assert summary["finished"] is True
    assert summary["final"] == {
        "epoch": 4,
        "prototypes": {"accuracy": 0.7, "macro": 0.65},
        "prototypes_before": {"accuracy": 0.75, "macro": 0.72},
        "head": {"accuracy": 0.6, "macro": 0.55},
    }
    common = {"clips": 18, "kept_share": 0.5, "ratio": 0.75, "accuracy_all": 0.6, "seconds": 4.5}
    assert summary["labels"] == [
        {"version": 1, "from_epoch": 1, "trains_epochs": [3, 4], "precision": 0.9} | common,
        {"version": 2, "from_epoch": 4, "trains_epochs": None, "precision": 0.5} | common,
    ]
    assert summary["seconds"] == {
        "wall": 109.0,
        "training": 60.0,
        "trainer_waiting": 5.0,
        "labelling": 9.0,
        "evaluating": 9.0,
    }
    assert summary["share_waited"] == pytest.approx(5 / 66)
    assert summary["clips"] == {"labelled": 6, "unlabelled": 18, "test": 6}
    assert summary["classes"] == list(NAMES)
    assert summary["final_by_class"][1] == {
        "class": "shake/head",
        "prototypes": 0.2,
        "prototypes_before": None,
        "head": None,
    }
    assert summary["pictures"] == [
        "accuracy.png",
        "pseudo_labels.png",
        "timeline.png",
        "classes/00_nod_x_.png",
        "classes/01_shake_head.png",
        "classes/02_wave.png",
    ]


def test_hints_rest_on_numbers(reported: tuple[ArtifactStore, dict[str, Any]]) -> None:
    hints = " ".join(reported[1]["where_next"])

    assert "The weakest class is shake/head: 20.0 %" in hints
    assert "5.0 points worse" in hints
    assert "no more often right than all" in hints
    assert "waited 5.0 s for labels (7.6 % of its time)" in hints
    assert "report/classes" in hints


def test_every_picture_has_the_size_of_a_slide(reported: tuple[ArtifactStore, dict[str, Any]]) -> None:
    store, summary = reported

    for name in summary["pictures"]:
        pixels = imread(BytesIO(store.read_bytes(f"report/{name}") or b""), format="png")
        assert pixels.shape[:2] == (HEIGHT, WIDTH), name
        assert pixels.std() > 0.05, f"{name} is blank"


def test_tables_for_people(reported: tuple[ArtifactStore, dict[str, Any]]) -> None:
    store, summary = reported
    tables = {table.title: table for table in summary_rows(summary)}

    assert tables["Test clips after epoch 4"].rows[0] == ("prototypes", "70.0 %", "65.0 %")
    assert tables["Pseudo-labels"].rows[0] == (
        "v1", "epoch 1", "3–4", "50.0 %", "0.750", "90.0 %", "60.0 %", "4.5 s",
    )  # fmt: skip
    assert tables["Time"].rows[2] == ("trainer waiting", "5.0 s (7.6 % of its time)")
    assert all(len(row) == len(table.columns) for table in tables.values() for row in table.rows)
    markdown = (store.read_bytes("report/summary.md") or b"").decode()
    assert "| prototypes | 70.0 % | 65.0 % |" in markdown
    assert "![timeline.png](timeline.png)" in markdown


def test_a_method_without_labels_has_a_report_without_them(tmp_path: Path) -> None:
    config = config_of(tmp_path, uses_labels=False)
    store = ArtifactStore(config.store.url, config.run)
    publish_evaluation(store, 4, head__accuracy=0.4, head__macro=0.35)
    store.write_json("services/trainer/spans/000001-000000.json", {"spans": [span("train", 0, 9.0)]})

    summary = write_report(store, config, prepare(tmp_path))

    assert summary["pictures"] == ["accuracy.png", "timeline.png"]
    assert summary["labels"] == []
    assert summary["final"]["prototypes"] is None
    assert summary["seconds"]["wall"] == 9.0


def test_online_pseudo_labels_alone_have_their_picture(tmp_path: Path) -> None:
    config = config_of(tmp_path, uses_labels=False)
    store = ArtifactStore(config.store.url, config.run)
    publish_evaluation(store, 4, online__passed_share=0.0)

    assert write_report(store, config, prepare(tmp_path))["pictures"] == ["pseudo_labels.png"]


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    store = ArtifactStore(config.store.url, config.run)

    summary = write_report(store, config, prepare(tmp_path, known=False))

    assert summary["pictures"] == []
    assert summary["finished"] is False
    assert summary["final"] == {"epoch": None, "prototypes": None, "prototypes_before": None, "head": None}
    assert summary["seconds"]["wall"] is None
    assert [table.title for table in summary_rows(summary)] == ["Time", "Clips"]


@pytest.mark.parametrize("kept", [True, False])
def test_one_class_of_which_nothing_or_all_is_kept_and_no_truth(tmp_path: Path, kept: bool) -> None:
    config = config_of(tmp_path)
    store = ArtifactStore(config.store.url, config.run)
    labels = labels_of(1, 1, num_classes=1)
    if not kept:
        labels = replace(labels, adaptive_K=np.zeros(1, np.float32), local_K=np.zeros(1, np.float32))
    labels = replace(labels, kept_N=np.full(18, kept))
    publish_labels(store, labels, start=0)

    summary = write_report(store, config, prepare(tmp_path, names=("only",), known=False))

    assert summary["pictures"] == ["pseudo_labels.png", "classes/00_only.png"]
    assert summary["labels"][0]["kept_share"] == float(kept)
    assert ("No pseudo-label is kept for only." in summary["where_next"]) is not kept


@pytest.mark.parametrize("strategy", ["sskm", "parametric"])
@pytest.mark.parametrize("kept", [True, False])
def test_hints_suit_where_labels_come_from(tmp_path: Path, kept: bool, strategy: Literal["sskm", "parametric"]) -> None:
    config = config_of(tmp_path)
    config = config.model_copy(update={"labeler": LabelerConfig(strategy=strategy)})
    store = ArtifactStore(config.store.url, config.run)
    publish_labels(store, replace(labels_of(1, 1), kept_N=np.full(18, kept)), start=0)
    publish_evaluation(store, 1, labels__precision=0.6, labels__accuracy_all=0.6)

    hints = " ".join(write_report(store, config, prepare(tmp_path))["where_next"])

    assert ("method.tau keeps more" in hints) is (not kept and strategy == "parametric")
    assert ("sat_scale above 1 keeps more" in hints) is (not kept and strategy == "sskm")
    assert ("no more often right than all" in hints) is not kept


def test_clips_on_a_sheet_are_those_around_the_threshold() -> None:
    labels = labels_of(1, 1)
    nearest, inside, outside = (labels.distances_N[picked] for picked in pick_clips(labels, 0, num=2))

    np.testing.assert_allclose(nearest, [0.1, 0.2])
    np.testing.assert_allclose(inside, [0.3])
    np.testing.assert_allclose(outside, [0.4, 0.5])


def test_relative_distances_agree_with_what_was_kept() -> None:
    labels = labels_of(1, 1)
    np.testing.assert_array_equal(relative_distances(labels) < 1, labels.kept_N)
    without = replace(labels, adaptive_K=np.zeros(3, np.float32))
    np.testing.assert_array_equal(relative_distances(without), np.ones(18))
