"""What the processes of several ranks do in tests: a spawned process imports this module, but no test module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import get_args

import torch
from short_training import CPU, labels_for, made_up_data, training
from torch.distributed import TCPStore, destroy_process_group

from aplt.common.artifacts import Checkpoint
from aplt.common.config import BaseRunConfig
from aplt.common.errors import DataError
from aplt.common.models import VideoClassifier
from aplt.trainer.config import AnyMethodConfig
from aplt.trainer.followers import join_ranks
from aplt.trainer.loader import Loader
from aplt.trainer.loop import steps, train_epoch
from aplt.trainer.methods import METHODS, Batch
from aplt.trainer.order import StepOrder
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
        loader = InDouble(state, loader)
        _, first = next(iter(steps(trainer.config, state, loader)))
        train_epoch(trainer, state, loader)
        parts = {name: float(value) for name, value in first.parts.items()}
        return {"loss": float(first.loss.detach()), **parts}, state.checkpoint()


class InDouble(Loader):
    """The batches of a loader in double precision, and the networks made so.

    In single precision rounding, which differs with the kernels of a machine, now and then decides on which side of its
    kink a ReLU is, or which of two values is pooled.
    """

    def __init__(self, state: TrainState, loader: Loader) -> None:
        vars(self).update(vars(loader))
        for module in [*state.model.modules(), *state.method.modules()]:
            if isinstance(module, VideoClassifier):
                module.double()

    def epoch(self, epoch: int) -> Iterator[tuple[StepOrder, Batch]]:
        for order, batch in super().epoch(epoch):
            views = {name: value.double() for name, value in vars(batch).items() if is_view(value)}
            yield order, replace(batch, **views)


def is_view(value: object) -> bool:
    """Tell the views of a batch from its labels, positions and progress."""
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def rank(number: int, port: int, folder: Path, channel: Connection | None = None) -> dict[str, Found]:
    """Train every method as one of two ranks; returns what this one found, and sends it."""
    join_ranks(number, 2, TCPStore("127.0.0.1", port, is_master=number == 0, wait_for_workers=False), CPU)
    found = {name: trained(name, folder / name / str(number), ranks=2) for name in NAMES}
    if channel is not None:
        channel.send(found)
    destroy_process_group()
    return found


def unfit(config: BaseRunConfig, device: torch.device, states: Iterator[Checkpoint]) -> None:
    """What a rank does that cannot read its clips, or that fails for no reason that a user knows."""
    next(states)
    if config.run == "damaged":
        raise DataError("clip 7 is damaged")
    raise ZeroDivisionError("one over none")
