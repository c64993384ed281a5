"""What goes wrong between two processes that exchange versions through files, each case with real processes.

The first five are failures of a relative of this system; the others are about processes neither dead nor alive.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kill_points import KillPoint, contents, run, start

from aplt.common.service import ROLES, Role, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy.following import status_values

pytestmark = pytest.mark.slow
WriteConfig = Callable[..., Path]
Undisturbed = Callable[[Path], ArtifactStore]
Services = Any  # the class lives in conftest.py, which cannot be imported
WAITING = KillPoint("waiting", "", "after")


def test_a_version_is_never_complete_without_its_objects_nor_with_those_of_another_attempt(
    services: Services, write_config: WriteConfig, tmp_path: Path
) -> None:
    """1. A version marked complete without its weights. 2. A second write that leaves shards of the first beside it."""
    path = write_config()
    for point in (
        KillPoint("put", "checkpoints/v000001/.*weights", "torn"),
        KillPoint("create", "checkpoints/v000001/"),
    ):
        run_step(path, tmp_path, point)
        store: ArtifactStore = services.store(path)
        assert store.checkpoints.candidates() == [1]
        assert store.checkpoints.versions() == []
        assert store.checkpoints.latest() is None
    run_step(path, tmp_path, KillPoint("create", "checkpoints/v000001/manifest", "after"))
    manifest = store.checkpoints.manifest(1)
    assert store.checkpoints.load(1).epoch == 1
    attempt = tmp_path / "runs" / store.checkpoints.attempt_folder(manifest)
    files = {str(entry.relative_to(attempt)) for entry in attempt.rglob("*") if entry.is_file()}
    assert files == set(manifest.objects)
    assert len([entry for entry in attempt.parent.iterdir() if entry.is_dir()]) == 3
    store.gc(grace_s=0)
    assert [entry for entry in attempt.parent.iterdir() if entry.is_dir()] == [attempt]
    assert store.verify() == []


def test_after_a_resume_nobody_waits_for_what_nobody_will_send(
    services: Services, write_config: WriteConfig, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """3. Features, and a checkpoint, that labels are still to be made from are lost while both sides are down."""
    path = write_config()
    expected = contents(undisturbed(path))
    store: ArtifactStore = services.store(path)
    run_step(path, tmp_path, WAITING)
    assert store.checkpoints.versions() == [1, 2]  # the trainer is past the checkpoint that the labels come from
    store.features.remove(1)
    run_step(path, tmp_path, WAITING)
    assert contents(store) == {name: digests for name, digests in expected.items() if name in contents(store)}
    assert store.features.versions() == [1]
    store.features.remove(1)
    store.checkpoints.remove(1)
    run(path, tmp_path)
    assert contents(store) == expected


def test_the_newest_complete_version_is_the_one_to_go_on_from(
    services: Services, write_config: WriteConfig, tmp_path: Path
) -> None:
    """4. The wrong newest version picked on resume: names that sort badly, and versions that were only begun."""
    path = write_config(schedule={"warmup_epochs": 12, "epochs": 0})
    for point in (KillPoint("create", "checkpoints/v000010/"), KillPoint("create", "checkpoints/v000012/")):
        run_step(path, tmp_path, point)
    store: ArtifactStore = services.store(path)
    assert store.checkpoints.versions() == list(range(1, 12))
    assert store.checkpoints.candidates()[-1] == 12
    run(path, tmp_path)
    by_claim = {store.checkpoints.manifest(epoch).provenance.pid: epoch for epoch in range(1, 13)}
    assert sorted(by_claim.values()) == [9, 11, 12]  # each process went on where the last one had published


@pytest.mark.parametrize("schedule", [(2, 1, 2), (2, 0, 1)])
def test_a_schedule_that_ends_where_the_two_sides_overlap(
    services: Services, write_config: WriteConfig, tmp_path: Path, schedule: tuple[int, int, int]
) -> None:
    """5. The last labels are asked for while the trainer trains its last epoch."""
    path = write_config(schedule=dict(zip(("warmup_epochs", "epochs", "phase_epochs"), schedule, strict=True)))
    run(path, tmp_path)
    store: ArtifactStore = services.store(path)
    plan = len(store.labels.versions())
    assert store.labels.versions() == list(range(1, plan + 1))
    assert "prototypes/accuracy" in store.evaluations.load(sum(schedule[:2])).scalars


@pytest.mark.parametrize(
    ("role", "text", "until"),
    [
        ("trainer", "checkpoints/v000002/manifest", "services/trainer/claims/000002.json"),  # it will be the first
        ("trainer", "features/v000001/manifest", "labels/v000001/manifest.json"),  # it will be too late
        ("labeler", "labels/v000001/manifest", "evaluations/v000002/manifest.json"),
    ],
)
def test_one_that_wakes_up_after_another_took_over_harms_nobody(
    services: Services,
    write_config: WriteConfig,
    undisturbed: Undisturbed,
    tmp_path: Path,
    role: Role,
    text: str,
    until: str,
) -> None:
    """It is paused in the middle of publishing, and goes on while its successor is at work."""
    path = write_config()
    expected = contents(undisturbed(path))
    store: ArtifactStore = services.store(path)
    stale = start(role, path, tmp_path / "stale.log", point=KillPoint("create", text, signal=signal.SIGSTOP))
    other = start(ROLES[role == "trainer"], path, tmp_path / "other.log")
    services.wait_for(lambda: fate(store, role) == "paused")
    second = start(role, path, tmp_path / "second.log")
    second.join()
    assert second.exitcode == 1
    assert f"kill -CONT {stale.pid} lets it go on" in (tmp_path / "second.log").read_text()

    # Let the others believe that it ended: on another machine, its heartbeat would have stood still for too long.
    claim = store.read_json(f"services/{role}/claims/000001.json")
    assert claim is not None
    store.write_json(f"services/{role}/claims/000001.json", claim | {"state": "stopped"})
    successor = start(role, path, tmp_path / "successor.log")
    services.wait_for(lambda: store.read_bytes(until) is not None)
    os.kill(stale.pid, signal.SIGCONT)
    for process in (successor, other, stale):
        process.join()
    assert (successor.exitcode, other.exitcode) == (0, 0), (tmp_path / "successor.log").read_text()
    assert stale.exitcode in (0, 1)  # 1 if it noticed before there was nothing left to do
    assert "Traceback" not in (tmp_path / "stale.log").read_text()
    status = read_status(store, role)
    assert status is not None
    assert (status.claim, status.state) == (2, "finished")
    assert contents(store) == expected
    store.gc(grace_s=0)
    assert store.verify() == []


def test_a_paused_service_is_told_from_a_dead_one(
    services: Services, write_config: WriteConfig, tmp_path: Path
) -> None:
    path = write_config(schedule={"warmup_epochs": 500})
    store: ArtifactStore = services.store(path)
    trainer = start("trainer", path, tmp_path / "trainer.log")
    try:
        services.wait_for(lambda: store.checkpoints.exists(1))
        os.kill(trainer.pid, signal.SIGSTOP)
        services.wait_for(lambda: fate(store, "trainer") == "paused")
        labeler = start("labeler", path, tmp_path / "labeler.log", "--set", "labeler.wait_timeout_s=0.5")
        labeler.join()
        assert labeler.exitcode == 1
        assert f"kill -CONT {trainer.pid} lets it go on" in (tmp_path / "labeler.log").read_text()
        assert "labeler.wait_timeout_s" in (tmp_path / "labeler.log").read_text()
    finally:
        trainer.kill()
        trainer.join()
    assert fate(store, "trainer") == "died"


def test_a_labeler_without_a_trainer_says_so(services: Services, write_config: WriteConfig, tmp_path: Path) -> None:
    path = write_config()
    labeler = start("labeler", path, tmp_path / "labeler.log", "--set", "labeler.wait_timeout_s=0.5")
    labeler.join()
    assert labeler.exitcode == 1
    said = " ".join((tmp_path / "labeler.log").read_text().split())
    assert "No trainer was ever started for this run" in said
    assert "can be resumed" in said
    assert "Traceback" not in said


def run_step(path: Path, folder: Path, point: KillPoint) -> None:
    """Start a trainer alone and let it die at `point`."""
    log = folder / "step.log"
    process = start("trainer", path, log, point=point)
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()


def fate(store: ArtifactStore, role: Role) -> object:
    values: Any = status_values(store)["services"]
    return None if values[role] is None else values[role]["fate"]
