from __future__ import annotations

import subprocess
import sys

import pytest

from aplt.common import service
from aplt.common.errors import RunError
from aplt.common.service import (
    RoleClaim,
    StopRequestedError,
    describe_role,
    is_alive,
    process_exists,
    process_identity,
    progress_of,
    read_status,
    record_spans,
    request_stop,
)
from aplt.common.store import ArtifactStore


@pytest.fixture
def store(request: pytest.FixtureRequest) -> ArtifactStore:
    return ArtifactStore(f"memory://{abs(hash(request.node.nodeid))}", "run")


@pytest.fixture
def fast_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BEAT_S", 0.01)


def dead_process() -> dict[str, object]:
    """The identity of a process on this machine that has ended."""
    identity = process_identity()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return identity | {"pid": process.pid, "pid_started": "1"}


def test_a_service_says_what_it_does_and_how_it_ended(store: ArtifactStore) -> None:
    assert describe_role(store, "trainer") == "No trainer was ever started for this run"
    with RoleClaim(store, "trainer") as claim:
        claim.waiting("for labels v1")
        status = read_status(store, "trainer")
        assert status is not None
        assert (status.state, status.doing, status.claim) == ("waiting", "for labels v1", 1)
        assert is_alive(status)
    status = read_status(store, "trainer")
    assert status is not None
    assert status.state == "finished"
    assert status.done == 1.0


def test_a_failure_is_told(store: ArtifactStore) -> None:
    with pytest.raises(ValueError, match="boom"), RoleClaim(store, "labeler"):
        raise ValueError("boom")
    status = read_status(store, "labeler")
    assert status is not None
    assert (status.state, status.doing) == ("failed", "ValueError: boom")


def test_a_second_service_of_a_role_is_refused(store: ArtifactStore) -> None:
    refused = pytest.raises(RunError, match=r"has a trainer already.*aplt stop trainer")
    with RoleClaim(store, "trainer"), RoleClaim(store, "labeler"), refused:
        RoleClaim(store, "trainer")
    assert RoleClaim(store, "trainer").number == 2


def test_a_claim_without_a_first_status_counts_while_its_process_lives(store: ArtifactStore) -> None:
    store.create_json("services/trainer/claims/000001.json", process_identity())
    with pytest.raises(RunError, match="has a trainer already"):
        RoleClaim(store, "trainer")


def test_the_role_of_a_dead_process_is_taken_over_at_once(store: ArtifactStore) -> None:
    store.create_json("services/trainer/claims/000001.json", dead_process())

    def never(_: float) -> None:
        raise AssertionError("waited for a process that is known to be dead")

    with RoleClaim(store, "trainer", sleep=never) as claim:
        assert claim.number == 2


@pytest.mark.parametrize("beats", [True, False])
def test_a_holder_on_another_machine_is_judged_by_its_heartbeat(store: ArtifactStore, beats: bool) -> None:
    elsewhere = process_identity() | {"boot": "another machine", "host": "other"}
    status = {"role": "trainer", "claim": 1, "state": "working", "updated_at": "2026-01-01T00:00:00Z", "beat": 7}
    store.create_json("services/trainer/claims/000001.json", elsewhere)
    store.write_json("services/trainer/status.json", status | elsewhere)

    def lease_passes(_: float) -> None:
        if beats:
            store.write_json("services/trainer/status.json", status | elsewhere | {"beat": 8})

    if beats:
        with pytest.raises(RunError, match="on other"):
            RoleClaim(store, "trainer", sleep=lease_passes)
    else:
        assert RoleClaim(store, "trainer", sleep=lease_passes).number == 2


@pytest.mark.usefixtures("fast_beat")
def test_a_stop_request_ends_the_service_at_its_next_tick(store: ArtifactStore) -> None:
    def work(claim: RoleClaim) -> None:
        while True:
            claim.tick()

    with pytest.raises(StopRequestedError), RoleClaim(store, "trainer") as claim:
        asked = request_stop(store, "trainer")
        assert asked is not None
        assert asked.claim == claim.number
        work(claim)
    status = read_status(store, "trainer")
    assert status is not None
    assert status.state == "stopped"
    assert request_stop(store, "trainer") is None


@pytest.mark.usefixtures("fast_beat")
def test_one_that_was_taken_over_ends_and_leaves_the_status_alone(store: ArtifactStore) -> None:
    def work(claim: RoleClaim) -> None:
        while True:
            claim.check()

    with pytest.raises(RunError, match="took over"), RoleClaim(store, "trainer") as claim:
        store.create_json("services/trainer/claims/000002.json", process_identity())
        work(claim)
    status = read_status(store, "trainer")
    assert status is not None
    assert status.claim == 1
    assert status.state == "working"


def test_progress_changes_with_work_alone(store: ArtifactStore) -> None:
    assert progress_of(store, "trainer") is None
    with RoleClaim(store, "trainer") as claim:
        before = progress_of(store, "trainer")
        claim.waiting("for labels")
        assert progress_of(store, "trainer") == before
        claim.tick()
        claim.waiting("for labels")
        assert progress_of(store, "trainer") != before


def test_processes_are_told_apart() -> None:
    assert process_exists(process_identity())
    assert process_exists(dead_process()) is False
    assert process_exists(process_identity() | {"boot": "another machine"}) is None


def test_spans_of_all_processes_are_kept(store: ArtifactStore) -> None:
    record_spans(store, "trainer", [{"what": "train", "start": 1.0, "seconds": 2.0}])
    record_spans(store, "trainer", [{"what": "wait", "start": 3.0, "seconds": 1.0}])
    spans = store.read_json("services/trainer/spans.json")
    assert spans is not None
    assert [span["what"] for span in spans["spans"]] == ["train", "wait"]
