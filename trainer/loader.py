"""Batches of augmented views, made ahead of the steps by one thread.

On a CPU that thread reads and augments, so that both hide behind the network wherever a core is free. For a GPU it
reads; views are made on the device, in the order of its stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aplt.common.data.prepared import PreparedData
from aplt.common.views import Augmentation
from aplt.trainer.methods import Batch, Method
from aplt.trainer.order import StepOrder, epoch_order, steps_per_epoch
from aplt.trainer.ranks import own_part

READ_AHEAD = 2


@dataclass(frozen=True)
class Read:
    """This rank's clips of one step as they come from the cache: [B, F, S, S, 3] uint8."""

    order: StepOrder
    labeled: Tensor
    unlabeled: Tensor | None


class Loader:
    """Makes the batches of any epoch, always the same for the same seed."""

    def __init__(
        self,
        data: PreparedData,
        augmentation: Augmentation,
        method: Method,  # type: ignore[type-arg]
        *,
        seed: int,
        num_epochs: int,
        batch_size: int,
        mu: int,
        device: torch.device,
    ) -> None:
        self._data = data
        self._augmentation = augmentation
        self._method = method
        self._seed = seed
        self._num_epochs = num_epochs
        self._batch_size = batch_size
        self._mu = mu
        self._device = device
        self._labels_M = torch.from_numpy(data.labels_M.astype(np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the unlabelled clips."""
        return steps_per_epoch(len(self._data.unlabeled_rows_N), batch_size=self._batch_size, mu=self._mu)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self._num_epochs

    def epoch(self, epoch: int) -> Iterator[tuple[StepOrder, Batch]]:
        """Yield the batches of `epoch` (counted from 1)."""
        orders = epoch_order(
            epoch,
            seed=self._seed,
            num_labeled=len(self._data.labeled_rows_M),
            num_unlabeled=len(self._data.unlabeled_rows_N),
            batch_size=self._batch_size,
            mu=self._mu,
        )
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            first = [order for _, order in zip(range(READ_AHEAD), orders, strict=False)]
            pending = [(order, pool.submit(self._ahead, order, epoch)) for order in first]
            while pending:
                order, future = pending.pop(0)
                ahead = future.result()
                following = next(orders, None)
                if following is not None:
                    pending.append((following, pool.submit(self._ahead, following, epoch)))
                yield order, ahead if isinstance(ahead, Batch) else self._views(ahead, epoch)

    def _ahead(self, order: StepOrder, epoch: int) -> Read | Batch:
        read = self._read(order)
        return read if self._device.type == "cuda" else self._views(read, epoch)

    def _read(self, order: StepOrder) -> Read:
        unlabeled = None
        if self._method.uses_unlabeled:
            unlabeled = self._clips(self._data.unlabeled_rows_N[own_part(order.unlabeled_B)])
        return Read(order, self._clips(self._data.labeled_rows_M[own_part(order.labeled_B)]), unlabeled)

    def _clips(self, rows_B: NDArray[np.int32]) -> Tensor:
        clips, cuda = self._data.clips, self._device.type == "cuda"
        # Pinned memory goes to the device without another copy, and torch keeps it for the next batch.
        batch = torch.empty((len(rows_B), *clips.shape[1:]), dtype=torch.uint8, pin_memory=cuda)
        clips.read(rows_B, out=batch.numpy())
        return batch

    def _views(self, read: Read, epoch: int) -> Batch:
        augment, method, order = self._augmentation, self._method, read.order
        rows_x = self._data.labeled_rows_M[own_part(order.labeled_B)]
        visit_x = own_part(order.labeled_visit_B)
        progress = order.done / self.total_steps
        clips_x = read.labeled.to(self._device, non_blocking=True)
        labels_B = self._labels_M[order.labeled_B].to(self._device)
        labeled_weak = augment.weak(clips_x, rows_x, round_B=visit_x, view="labeled weak")
        labeled_strong = None
        if method.uses_labeled_strong:
            labeled_strong = augment.strong(clips_x, rows_x, round_B=visit_x, view="labeled strong")
        if read.unlabeled is None:
            return Batch(progress=progress, labels_B=labels_B, labeled_weak=labeled_weak, labeled_strong=labeled_strong)
        rows_u = self._data.unlabeled_rows_N[own_part(order.unlabeled_B)]
        clips_u = read.unlabeled.to(self._device, non_blocking=True)
        round_B = np.full(len(rows_u), epoch)
        unlabeled_weak_2 = unlabeled_strong = unlabeled_strong_2 = None
        if method.uses_unlabeled_weak_2:
            unlabeled_weak_2 = augment.weak(clips_u, rows_u, round_B=round_B, view="unlabeled weak 2")
        if method.uses_unlabeled_strong:
            unlabeled_strong = augment.strong(clips_u, rows_u, round_B=round_B, view="unlabeled strong")
        if method.uses_unlabeled_strong_2:
            unlabeled_strong_2 = augment.strong(clips_u, rows_u, round_B=round_B, view="unlabeled strong 2")
        batch = Batch(
            progress=progress,
            labels_B=labels_B,
            labeled_weak=labeled_weak,
            labeled_strong=labeled_strong,
            unlabeled_weak=augment.weak(clips_u, rows_u, round_B=round_B, view="unlabeled weak"),
            unlabeled_weak_2=unlabeled_weak_2,
            unlabeled_strong=unlabeled_strong,
            unlabeled_strong_2=unlabeled_strong_2,
            position_B=torch.from_numpy(order.unlabeled_B).to(self._device),
        )
        if not method.uses_temporal_gradients:
            return batch
        return replace(
            batch,
            labeled_weak_tg=augment.weak(clips_x, rows_x, round_B=visit_x, view="labeled weak", gradients=True),
            unlabeled_weak_tg=augment.weak(clips_u, rows_u, round_B=round_B, view="unlabeled weak", gradients=True),
            unlabeled_strong_tg=augment.strong(
                clips_u, rows_u, round_B=round_B, view="unlabeled strong", gradients=True
            ),
        )
