"""Two ranks train what one trains on the joint batch, whatever the method."""

from __future__ import annotations

import multiprocessing
import socket
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rank_work import NAMES, Found, rank, trained, unfit
from short_training import CPU
from torch import nn

from aplt.common.artifacts import Checkpoint
from aplt.common.errors import ConfigError, DataError
from aplt.deploy.config import parse_config
from aplt.trainer.followers import followers
from aplt.trainer.ranks import joint, num_ranks, with_joint_batch_norm


def arrays(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    online = {} if checkpoint.online_labels_N is None else {"online": checkpoint.online_labels_N}
    return {**checkpoint.weights, **{f"state/{name}": value for name, value in checkpoint.state.items()}, **online}


def assert_alike(found: Checkpoint, expected: Checkpoint) -> None:
    """Sums over ranks are rounded elsewhere than sums over a batch, and what is gathered is rounded once more."""
    wanted = arrays(expected)
    assert arrays(found).keys() == wanted.keys()
    for name, value in wanted.items():
        other = arrays(found)[name]
        if value.dtype.kind == "f":
            scale = np.abs(value).max(initial=1e-2)
            assert np.allclose(other, value, rtol=0, atol=1e-5 * scale), (name, np.abs(other - value).max() / scale)
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
        assert found_parts == pytest.approx(parts, rel=1e-5, abs=1e-6)
        assert_alike(found, checkpoint)


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
