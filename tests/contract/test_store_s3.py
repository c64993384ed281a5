"""An object store that fails in between: asked again, or told in one line; what was written is never doubtful."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import pytest

from aplt.common import objects
from aplt.common.artifacts import Checkpoint
from aplt.common.errors import StoreError
from aplt.common.manifest import Provenance
from aplt.common.store import ArtifactStore

Faults = Any  # the class lives in conftest.py, which cannot be imported


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE_S", 0.01)


def checkpoint(epoch: int) -> Checkpoint:
    return Checkpoint(epoch=epoch, weights={"w": np.full(3, epoch, np.float32)}, state={})


@pytest.mark.parametrize("fault", ["503", "500", "reset", "lost answer"])
def test_a_store_that_fails_in_between_is_asked_again(
    faults: Faults, s3_url: str, provenance: Provenance, fault: str
) -> None:
    """Every third request fails, whatever it asks for; nobody notices, and nothing is written twice."""
    store = ArtifactStore(s3_url, "demo", options=faults.options)
    draws = random.Random(0)
    faults.plan = lambda method, path: fault if draws.random() < 1 / 3 else None
    for epoch in range(1, 5):
        ref = store.checkpoints.publish(checkpoint(epoch), version=epoch, provenance=provenance)
        assert store.checkpoints.load(ref).weights["w"].tolist() == [epoch] * 3
        assert store.create_json(f"claims/{epoch}.json", {"owner": epoch})
        assert not store.create_json(f"claims/{epoch}.json", {"owner": -1})
    store.checkpoints.remove(1)
    assert store.checkpoints.versions() == [2, 3, 4]
    assert faults.num_injected > 10
    faults.plan = None
    assert store.verify() == []
    assert store.gc(grace_s=0).keys == []


@pytest.mark.parametrize("fault", ["503", "reset", "slow"])
def test_an_outage_is_told_in_one_line(faults: Faults, s3_url: str, provenance: Provenance, fault: str) -> None:
    options = faults.options | {"timeout": "100ms"}
    store = ArtifactStore(s3_url, "demo", options=options).with_patience(0)
    faults.plan = lambda method, path: fault if method == "PUT" else None
    with pytest.raises(StoreError) as error:
        store.create_json("lock.json", {})
    (message,) = error.value.args
    assert message.startswith("Cannot write demo/lock.json in the store s3://")
    assert "\n" not in message
    assert len(message) < 500
    assert ("check the endpoint and the network" in message) == (fault != "503")
    assert ("the service is overloaded or down: try again later" in message) == (fault == "503")


def test_a_patient_service_survives_an_outage_and_says_so(
    faults: Faults, s3_url: str, provenance: Provenance, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    store = ArtifactStore(s3_url, "demo", options=faults.options).with_patience(3600)
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds
        if now_s > 70:
            faults.plan = None  # a minute later all is well

    monkeypatch.setattr(objects.time, "sleep", sleep)
    monkeypatch.setattr(objects, "FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(objects.time, "monotonic", lambda: now_s)
    faults.plan = lambda method, path: "reset"
    with caplog.at_level(logging.WARNING):
        store.checkpoints.publish(checkpoint(1), version=1, provenance=provenance)
    assert f"{faults.options['endpoint']}: HTTP error: error sending request; check the endpoint" in caplog.text
    assert caplog.text.count("Trying again for up to 60 min") == 1
    assert caplog.text.count("Trying again for up to 59 min") == 1
    assert "answers again after" in caplog.text
    assert store.verify() == []


def test_what_will_not_pass_is_not_asked_again(faults: Faults, s3_url: str) -> None:
    store = ArtifactStore(s3_url, "demo", options=faults.options).with_patience(3600)
    faults.plan = lambda method, path: "403"
    before = faults.num_injected
    with pytest.raises(StoreError, match="check that these credentials"):
        store.write_json("status.json", {})
    assert faults.num_injected == before + 1
