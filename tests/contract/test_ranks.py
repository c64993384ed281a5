"""Two ranks train what one trains on the joint batch, whatever the method."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Iterator
from multiprocessing import active_children
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from short_training import CPU, labels_for, made_up_data, training
from torch import nn
from torch.distributed import TCPStore, destroy_process_group

from aplt.common.artifacts import Checkpoint
from aplt.common.config import BaseRunConfig
from aplt.common.errors import ConfigError, DataError
from aplt.deploy.config import parse_config
from aplt.trainer.config import AnyMethodConfig
from aplt.trainer.followers import followers, join_ranks
from aplt.trainer.loop import steps, train_epoch
from aplt.trainer.methods import METHODS
from aplt.trainer.ranks import joint, num_ranks, with_joint_batch_norm
from aplt.trainer.state import TrainState

NAMES = sorted(METHODS)
WITH_TAU = {each().name for each in get_args(get_args(AnyMethodConfig)[0]) if "tau" in each.model_fields}
Found = tuple[dict[str, float], Checkpoint]


def trained(name: str, folder: Path, *, ranks: int) -> Found:
    """Return loss and parts of the first step, and what there is after an epoch more; as seen by one rank or by all."""
    settings = {"tau": 0.45} if name in WITH_TAU else {}  # some clips pass, and some do not
    data = made_up_data(folder / "clips" / "cache")
    with training(name, data, folder, ranks=ranks, **settings) as (trainer, state, loader):
        if trainer.config.method.uses_labels:
            state.method.adopt(labels_for(data, state.model.feature_dim))
        off_the_kink(state)
        _, first = next(iter(steps(trainer.config, state, loader)))
        train_epoch(trainer, state, loader)
        parts = {name: float(value) for name, value in first.parts.items()}
        return {"loss": float(first.loss.detach()), **parts}, state.checkpoint()


def off_the_kink(state: TrainState) -> None:
    """What Cutout covers is grey and still, and lies where a first ReLU bends: rounding would decide there."""
    for module in [*state.model.modules(), *state.method.modules()]:
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            nn.init.constant_(module.bias, 0.1)


def rank(number: int, port: int, folder: Path, channel: Connection | None = None) -> dict[str, Found]:
    """Train every method as one of two ranks; returns what this one found, and sends it."""
    join_ranks(number, 2, TCPStore("127.0.0.1", port, is_master=number == 0, wait_for_workers=False), CPU)
    found = {name: trained(name, folder / name / str(number), ranks=2) for name in NAMES}
    if channel is not None:
        channel.send(found)
    destroy_process_group()
    return found


def arrays(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    online = {} if checkpoint.online_labels_N is None else {"online": checkpoint.online_labels_N}
    return {**checkpoint.weights, **{f"state/{name}": value for name, value in checkpoint.state.items()}, **online}


def assert_alike(found: Checkpoint, expected: Checkpoint) -> None:
    """Sums over ranks are rounded elsewhere than sums over a batch; some steps make a few 1e-5 of that."""
    assert arrays(found).keys() == arrays(expected).keys()
    for name, value in arrays(expected).items():
        other = arrays(found)[name]
        if value.dtype.kind == "f":
            scale = np.abs(value).max(initial=1e-2)
            assert np.allclose(other, value, rtol=0, atol=1e-3 * scale), (name, np.abs(other - value).max() / scale)
        else:
            assert np.array_equal(other, value), name


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Found]]:
    """What each of two ranks found for every method."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = multiprocessing.get_context("spawn")
    here, there = processes.Pipe(duplex=False)
    other = processes.Process(target=rank, args=(1, port, folder, there))
    other.start()
    there.close()
    try:
        first, second = rank(0, port, folder), here.recv()
    finally:
        other.kill()
        other.join()
    return {name: [first[name], second[name]] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_train_what_one_trains(name: str, two_ranks: dict[str, list[Found]], tmp_path: Path) -> None:
    parts, checkpoint = trained(name, tmp_path, ranks=1)
    for found_parts, found in two_ranks[name]:
        assert found_parts == pytest.approx(parts, rel=1e-4, abs=1e-6)
        assert_alike(found, checkpoint)


def unfit(config: BaseRunConfig, device: torch.device, states: Iterator[Checkpoint]) -> None:
    """What a rank does that cannot read its clips, or that fails for no reason that a user knows."""
    next(states)
    if config.run == "damaged":
        raise DataError("clip 7 is damaged")
    raise ZeroDivisionError("one over none")


@pytest.mark.parametrize(("run", "kind"), [("damaged", DataError), ("bug", RuntimeError)])
def test_what_another_rank_says_last_is_told_with_its_number(
    run: str, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo")
    settings = {"run": run, "data": {"root": str(tmp_path)}, "trainer": {"ranks": 2, "device": "cpu"}}
    state = Checkpoint(epoch=0, weights={}, state={})
    with (
        pytest.raises(
            kind, match=r"rank 1 of 2 of the trainer \(pid \d+\).*(clip 7 is damaged|one over none)"
        ) as error,
        followers(parse_config(settings, source="test"), CPU, unfit) as others,
        others.epoch(lambda: state),
    ):
        joint(torch.zeros(1))
    assert num_ranks() == 1
    assert active_children() == []
    assert run == "damaged" or "in unfit" in error.value.__notes__[0]


def test_a_network_whose_batch_norm_does_more_is_refused() -> None:
    class NormAndMore(nn.BatchNorm2d):
        """As some libraries have it, with an activation."""

    with pytest.raises(ConfigError, match="NormAndMore"):
        with_joint_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), NormAndMore(4)))
