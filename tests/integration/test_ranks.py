"""A trainer of two ranks: either process killed at any time, other numbers of ranks in between, nothing left over."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aplt.common.service import read_status

pytestmark = pytest.mark.slow
WriteConfig = Callable[..., Path]
Services = Any


def other_ranks(pid: int) -> list[int]:
    """The processes of the other ranks, by the process of rank 0."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def test_a_killed_rank_is_started_again_and_leaves_no_trace(services: Services, write_config: WriteConfig) -> None:
    path = write_config(trainer={"ranks": 2})
    expected = services.contents(services.run(path, "run=undisturbed"))
    labeler, trainer = services.start("labeler", path), services.start("trainer", path)
    store = services.store(path)
    services.wait_for(lambda: store.checkpoints.versions(), trainer)
    (killed,) = other_ranks(trainer.pid)
    os.kill(killed, signal.SIGKILL)
    services.wait_for(lambda: "all ranks start again" in services.said(trainer), trainer)
    assert f"rank 1 of 2 of the trainer (pid {killed}) was killed by SIGKILL" in services.said(trainer)
    services.wait_for(lambda: other_ranks(trainer.pid), trainer)
    (again,) = other_ranks(trainer.pid)
    services.finish(trainer, labeler)
    assert services.contents(store) == expected
    assert [pid for pid in (killed, again) if os.path.exists(f"/proc/{pid}")] == []
    status = read_status(store, "trainer")
    assert status is not None
    assert (status.claim, status.state) == (1, "finished")


def test_a_run_goes_on_with_another_number_of_ranks(services: Services, write_config: WriteConfig) -> None:
    path = write_config()
    one = services.run(path, "run=one")
    store = services.store(path)
    labeler = services.start("labeler", path)
    for epoch, ranks in enumerate((2, 1), start=1):
        trainer = services.start("trainer", path, f"trainer.ranks={ranks}")
        services.wait_for(lambda epoch=epoch: store.checkpoints.exists(epoch), trainer)
        others = other_ranks(trainer.pid)
        assert len(others) == ranks - 1
        services.kill(trainer)
        services.wait_for(lambda others=others: not any(os.path.exists(f"/proc/{pid}") for pid in others))
    services.finish(services.start("trainer", path, "trainer.ranks=2"), labeler)
    assert store.checkpoints.versions() == one.checkpoints.versions()
    for epoch in store.checkpoints.versions():
        assert store.checkpoints.load(epoch).state.keys() == one.checkpoints.load(epoch).state.keys()
    assert store.labels.versions() == one.labels.versions()


@pytest.mark.ray
def test_an_actor_of_two_ranks_dies_and_is_restarted_with_all_of_them(
    services: Services, write_config: WriteConfig
) -> None:
    endless = {"warmup_epochs": 5000, "epochs": 0}
    path = write_config(trainer={"ranks": 2}, schedule=endless, method={"name": "fixmatch"})
    store = services.store(path)
    try:
        services.finish(services.command("launch", "--cluster", str(path), "--detach"))
        services.wait_for(lambda: store.checkpoints.exists(1))
        first = read_status(store, "trainer")
        assert first is not None
        others = other_ranks(first.pid)
        assert len(others) == 1
        os.kill(first.pid, signal.SIGKILL)
        services.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in others))
        newest = max(store.checkpoints.versions())
        services.wait_for(lambda: store.checkpoints.exists(newest + 1))  # Ray has started it again
        second = read_status(store, "trainer")
        assert second is not None
        others = other_ranks(second.pid)
        assert len(others) == 1
    finally:
        services.finish(services.command("stop", "all", str(path)))
    assert not any(os.path.exists(f"/proc/{pid}") for pid in others)
