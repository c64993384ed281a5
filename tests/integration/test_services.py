"""Two processes, one store: whatever happens to either, the same labels and the same weights come out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aplt.common.data.prepared import PreparedData
from aplt.common.service import Role, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy.config import load_config

pytestmark = pytest.mark.slow
WriteConfig = Callable[..., Path]
Undisturbed = Callable[[Path], ArtifactStore]
Services = Any  # the class lives in conftest.py, which cannot be imported


def test_a_run_from_clips_to_pictures(services: Services, write_config: WriteConfig, prepared: Path) -> None:
    path = write_config()
    services.finish(services.command("train", str(path)), services.command("label", str(path)))
    store: ArtifactStore = services.store(path)

    assert store.checkpoints.versions() == [1, 2, 3, 4, 5]
    assert store.labels.versions() == [1, 2, 3]
    assert store.features.versions() == [1, 2, 3]
    assert store.evaluations.versions() == [1, 2, 3, 4, 5]
    assert store.verify() == []

    data = PreparedData.open(prepared, load_config(path).data.split_name)
    labels = store.labels.load(2)
    assert np.array_equal(labels.rows_N, data.unlabeled_rows_N)
    assert [parent.series for parent in store.labels.manifest(2).parents] == ["checkpoints", "features"]
    assert np.allclose(np.linalg.norm(labels.prototypes_KD, axis=1), 1, atol=1e-5)
    snapshot = store.features.load(2)
    assert (snapshot.labels_N[: len(data.labels_M)] == data.labels_M).all()
    assert (snapshot.labels_N[len(data.labels_M) :] == -1).all()

    final = store.evaluations.load(5).scalars
    assert 0 <= final["prototypes/accuracy"] <= 1
    assert "prototypes_before/accuracy" in final
    assert "labels/precision" in final or final["labels/kept_known"] == 0

    assert store.local_path is not None
    assert {"summary.json", "summary.md", "accuracy.png", "pseudo_labels.png", "timeline.png", "classes"} <= {
        entry.name for entry in (store.local_path / "report").iterdir()
    }
    lines = [json.loads(line) for line in (store.local_path / "records" / "trainer.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [1, 2, 3, 4, 5]
    assert list((store.local_path / "records" / "tensorboard" / "labeler").iterdir())
    for role in ("trainer", "labeler"):
        status = read_status(store, role)
        assert status is not None
        assert status.state == "finished"


@pytest.mark.parametrize("lead", [0, 1])
def test_neither_timing_nor_kills_change_a_bit(
    services: Services, write_config: WriteConfig, undisturbed: Undisturbed, lead: int
) -> None:
    path = write_config(schedule={"lead_epochs": lead})
    expected = services.contents(undisturbed(path))

    # The labeler starts when the trainer is at work, is killed, and comes back late; the trainer dies twice.
    store = services.store(path)
    trainer = services.start("trainer", path)
    services.wait_for(lambda: store.checkpoints.exists(1), trainer)
    services.kill(trainer)
    labeler = services.start("labeler", path)
    trainer = services.start("trainer", path)
    services.wait_for(lambda: store.labels.exists(1), labeler)
    services.kill(labeler)
    services.wait_for(lambda: store.checkpoints.exists(3), trainer)
    services.kill(trainer)
    services.finish(*(services.start(role, path) for role in ("trainer", "labeler")))

    assert services.contents(store) == expected
    assert store.labels.versions() == [1, 2, 3]
    assert store.verify() == []


@pytest.mark.parametrize(("source", "unlabeled"), [("bank", "rest"), ("labeler", "all")])
def test_features_from_elsewhere(services: Services, write_config: WriteConfig, source: str, unlabeled: str) -> None:
    path = write_config(features={"source": source})
    store = services.run(path, f"data.unlabeled={unlabeled}")
    assert store.labels.versions() == [1, 2, 3]
    roles = {store.features.manifest(version).provenance.role for version in store.features.versions()}
    assert roles == {"labeler" if source == "labeler" else "trainer"}
    assert store.features.manifest(1).summary["source"] == source
    snapshot = store.features.load(1)
    labeled_N = snapshot.labels_N >= 0
    both = set(snapshot.rows_N[labeled_N]) & set(snapshot.rows_N[~labeled_N])
    assert len(both) == (labeled_N.sum() if unlabeled == "all" else 0)


def test_features_from_trainer_and_labeler_agree(write_config: WriteConfig, undisturbed: Undisturbed) -> None:
    """Both see the same network and the same clips; batch sizes differ, so floats may differ in the last bits."""
    by_trainer = undisturbed(write_config("a.yaml")).features.load(1)
    by_labeler = undisturbed(write_config("b.yaml", features={"source": "labeler"})).features.load(1)
    assert np.array_equal(by_trainer.rows_N, by_labeler.rows_N)
    assert np.allclose(by_trainer.features_ND, by_labeler.features_ND, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["supervised", "fixmatch"])
def test_methods_without_labels(services: Services, write_config: WriteConfig, method: str) -> None:
    store = services.run(write_config(method={"name": method}))
    assert store.labels.versions() == []
    final = store.evaluations.load(5).scalars
    assert "head/accuracy" in final
    assert "prototypes/accuracy" not in final
    assert ("online/passed_share" in final) == (method == "fixmatch")


@pytest.mark.parametrize("role", ["trainer", "labeler"])
def test_a_second_service_says_so_and_stops(services: Services, write_config: WriteConfig, role: Role) -> None:
    path = write_config(schedule={"warmup_epochs": 500})
    store = services.store(path)
    first = services.start(role, path)
    services.wait_for(lambda: read_status(store, role), first)
    second = services.start(role, path)
    assert second.wait(120) == 1
    assert f"has a {role} already" in services.said(second)
    assert "Traceback" not in services.said(second)
    assert first.poll() is None


def test_labels_that_never_come(services: Services, write_config: WriteConfig) -> None:
    path = write_config(trainer={"wait_timeout_s": 1})
    trainer = services.start("trainer", path)
    assert trainer.wait(240) == 1
    said = services.said(trainer)
    assert "run/labels version 1" in said
    assert "No labeler was ever started" in said
    assert "can be resumed" in said
    assert "Traceback" not in said
    store = services.store(path)
    services.finish(services.start("labeler", path), services.start("trainer", path, "trainer.wait_timeout_s=120"))
    assert store.labels.versions() == [1, 2, 3]


def test_another_configuration_is_refused(services: Services, write_config: WriteConfig) -> None:
    path = write_config(method={"name": "supervised"}, schedule={"warmup_epochs": 1, "epochs": 0})
    services.run(path)
    other = services.start("trainer", path, "trainer.lr=0.5")
    assert other.wait(120) == 1
    assert "trainer.lr" in services.said(other)
    assert "0.5" in services.said(other)


def test_aplt_stop_ends_a_service_that_can_go_on(services: Services, write_config: WriteConfig) -> None:
    path = write_config()
    store = services.store(path)
    trainer = services.start("trainer", path)
    services.wait_for(lambda: store.checkpoints.exists(1), trainer)
    services.finish(services.command("stop", "trainer", str(store.local_path)))
    assert trainer.wait(60) == 130
    status = read_status(store, "trainer")
    assert status is not None
    assert status.state == "stopped"
    services.finish(services.start("trainer", path), services.start("labeler", path))


def test_a_run_in_an_object_store_is_the_same_run(
    services: Services,
    write_config: WriteConfig,
    undisturbed: Undisturbed,
    s3_url: str,
    s3_options: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_config("disk.yaml")
    monkeypatch.chdir(path.parent)  # records of a run on S3 go to ./records
    on_disk = undisturbed(path)
    store = {"url": s3_url, "options": s3_options}
    data = {"prepared": f"{s3_url}/clips", "local": str(tmp_path / "where the clips are")}
    services.finish(services.command("data", "prepare", str(write_config("here.yaml", store=store, data=data))))
    there = {"root": str(tmp_path / "not here"), "local": str(tmp_path / "elsewhere")}
    on_s3 = services.run(write_config("s3.yaml", store=store, data=data | there))
    assert (tmp_path / "elsewhere" / "prepared.json").is_file()
    assert services.contents(on_s3) == services.contents(on_disk)
    assert on_s3.read_bytes("report/accuracy.png") is not None
    assert (path.parent / "records" / "run" / "trainer.jsonl").exists()
