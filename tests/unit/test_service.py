from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from aplt.common import service
from aplt.common.errors import RunError, StoreError
from aplt.common.service import (
    RoleClaim,
    StopRequestedError,
    describe_role,
    is_alive,
    process_exists,
    process_identity,
    progress_of,
    read_spans,
    read_status,
    request_stop,
)
from aplt.common.store import ArtifactStore


@pytest.fixture
def store(request: pytest.FixtureRequest) -> ArtifactStore:
    return ArtifactStore(f"memory://{abs(hash(request.node.nodeid))}", "run")


@pytest.fixture
def fast_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BEAT_S", 0.01)


def dead_process() -> dict[str, Any]:
    """The identity of a process on this machine that has ended."""
    identity = process_identity()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return identity | {"pid": process.pid, "pid_started": "1"}


def claim_by(store: ArtifactStore, identity: dict[str, Any], *, claim: int = 1, **status: Any) -> None:
    """Let another process hold the trainer's role."""
    said = {"role": "trainer", "claim": claim, "state": "working", "updated_at": "2026-01-01T00:00:00Z"}
    store.write_json(f"services/trainer/claims/{claim:06d}.json", said | identity | status)


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


def test_a_claim_without_a_heartbeat_counts_while_its_process_lives(store: ArtifactStore) -> None:
    claim_by(store, process_identity())
    with pytest.raises(RunError, match="has a trainer already"):
        RoleClaim(store, "trainer")


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b'{"pid": 1}', b'{"pid": 1, "checksum": "0"}'])
def test_a_damaged_claim_stops_nobody_for_good(store: ArtifactStore, damaged: bytes) -> None:
    """Its holder, if it lives, mends it with the next heartbeat; so a newcomer waits for that, as for one elsewhere."""
    name = "services/trainer/claims/000001.json"
    store.write_bytes("services/trainer/claims/notes.txt", b"not a claim")
    store.write_bytes(name, damaged)
    assert read_status(store, "trainer") is None
    with pytest.raises(RunError, match="has a trainer already"):
        RoleClaim(store, "trainer", sleep=lambda _: claim_by(store, process_identity()))
    store.write_bytes(name, damaged)
    assert RoleClaim(store, "trainer", sleep=lambda _: None).number == 2


@pytest.mark.usefixtures("fast_beat")
def test_a_heartbeat_mends_what_is_damaged_around_it(store: ArtifactStore) -> None:
    with RoleClaim(store, "trainer") as claim:
        claim.record_spans([{"what": "train", "start": 1.0, "seconds": 2.0}])
        store.write_bytes("services/trainer/stop.json", b"{")
        store.write_bytes("services/trainer/claims/000001.json", b"{")
        while read_status(store, "trainer") is None:
            claim.check()
    (spans,) = store.list_names("services/trainer/spans")
    store.write_bytes(spans, b'{"spans": [{"what": "train"}], "checksum": "0"}')
    assert read_spans(store, "trainer") == []


def test_the_role_of_a_dead_process_is_taken_over_at_once(store: ArtifactStore) -> None:
    claim_by(store, dead_process())

    def never(_: float) -> None:
        raise AssertionError("waited for a process that is known to be dead")

    with RoleClaim(store, "trainer", sleep=never) as claim:
        assert claim.number == 2


@pytest.mark.parametrize("beats", [True, False])
def test_a_holder_on_another_machine_is_judged_by_its_heartbeat(store: ArtifactStore, beats: bool) -> None:
    elsewhere = process_identity() | {"boot": "another machine", "host": "other"}
    claim_by(store, elsewhere, beat=7)

    def lease_passes(_: float) -> None:
        if beats:
            claim_by(store, elsewhere, beat=8)

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
def test_one_that_was_taken_over_ends_and_leaves_its_successor_alone(store: ArtifactStore) -> None:
    def work(claim: RoleClaim) -> None:
        while True:
            claim.check()

    with pytest.raises(RunError, match="took over"), RoleClaim(store, "trainer") as claim:
        claim_by(store, process_identity(), claim=2, doing="epoch 7")
        claim.waiting("for labels v1")
        claim.record_spans([{"what": "train", "start": 1.0, "seconds": 2.0}])
        work(claim)
    status = read_status(store, "trainer")
    assert status is not None
    assert (status.claim, status.state, status.doing) == (2, "working", "epoch 7")


def test_what_became_of_a_process(store: ArtifactStore) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    claim_by(store, process_identity() | {"pid": process.pid, "pid_started": service._started_at(process.pid)})
    status = read_status(store, "trainer")
    assert status is not None
    assert status.fate == "working"
    process.send_signal(signal.SIGSTOP)
    while status.fate == "working":
        os.sched_yield()
    assert status.fate == "paused"
    assert f"kill -CONT {process.pid}" in status.describe()
    process.kill()
    process.wait()
    assert status.fate == "died"
    assert "the process is gone" in status.describe()


def test_a_clock_that_jumps_makes_nobody_dead(store: ArtifactStore) -> None:
    """A holder elsewhere, whose clock is years ahead or behind, is judged by its heartbeat alone."""
    elsewhere = process_identity() | {"boot": "another machine", "host": "other"}
    for updated_at in ("1999-01-01T00:00:00Z", "2099-01-01T00:00:00Z"):
        claim_by(store, elsewhere, beat=1, updated_at=updated_at)
        status = read_status(store, "trainer")
        assert status is not None
        assert status.fate == "working"
        assert status.silent_s >= 0
        with pytest.raises(RunError, match="has a trainer already"):
            RoleClaim(
                store, "trainer", sleep=lambda _: claim_by(store, elsewhere, beat=2, updated_at="1980-01-01T00:00:00Z")
            )


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
    with RoleClaim(store, "trainer") as claim:
        for start in range(600):
            claim.record_spans([{"what": "train", "start": start, "seconds": 2.0}])
        claim.record_spans([])
    with RoleClaim(store, "trainer") as claim:
        claim.record_spans([{"what": "wait", "start": 600.0, "seconds": 1.0}])
    assert [span["start"] for span in read_spans(store, "trainer")] == list(range(601))
    assert len(store.list_names("services/trainer/spans")) == 4


def test_a_last_word_that_cannot_be_written_does_not_hide_the_reason(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space left")

    with pytest.raises(ValueError, match="boom"), RoleClaim(store, "trainer"):
        monkeypatch.setattr(store, "write_json", full)
        raise ValueError("boom")
