"""Clips to features with a frozen network.

Letters: B batch, T frames, D features, K classes, N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.common.artifacts import UNLABELED, FeatureSnapshot
from aplt.common.data.prepared import PreparedData

ReadBatch = Callable[[NDArray[np.int32]], Tensor]
"""Manifest rows [B] to a view of their clips [B, T, 3, H, W] on the network's device."""


@torch.no_grad()
def forward_rows(
    model: nn.Module,
    rows_N: NDArray[np.int32],
    read: ReadBatch,
    *,
    batch_size: int,
    tick: Callable[[], object] = lambda: None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return features [N, D] and logits [N, K] of `rows_N` in evaluation mode; `tick` is called after each batch."""
    was_training = model.training
    model.eval()
    features: list[NDArray[np.float32]] = []
    logits: list[NDArray[np.float32]] = []
    for rows_B in batches(rows_N, batch_size):
        features_BD, logits_BK = model(read(rows_B))
        features.append(features_BD.float().cpu().numpy())
        logits.append(logits_BK.float().cpu().numpy())
        tick()
    model.train(was_training)
    if not features:
        empty = np.zeros((0, 0), dtype=np.float32)
        return empty, empty
    return np.concatenate(features), np.concatenate(logits)


def training_rows(data: PreparedData) -> NDArray[np.int32]:
    """Return the manifest rows of the clips whose features are clustered: labelled ones first, then unlabelled."""
    return np.concatenate([data.labeled_rows_M, data.unlabeled_rows_N])


def snapshot_of(data: PreparedData, epoch: int, features_ND: NDArray[np.float32]) -> FeatureSnapshot:
    """Return the record of the features of `training_rows(data)`; unlabelled clips have label -1."""
    return FeatureSnapshot(
        epoch=epoch,
        rows_N=training_rows(data),
        features_ND=features_ND,
        labels_N=np.concatenate([data.labels_M, np.full(len(data.unlabeled_rows_N), UNLABELED, dtype=np.int16)]),
    )


def batches(rows_N: NDArray[np.int32], batch_size: int) -> Iterator[NDArray[np.int32]]:
    """Yield consecutive parts of `rows_N`."""
    for start in range(0, len(rows_N), batch_size):
        yield rows_N[start : start + batch_size]


def normalized(features_ND: Tensor, kind: str) -> Tensor:
    """Return the features as `features.normalize` wants them: unit length (l2) or as they are (none)."""
    return F.normalize(features_ND, dim=1) if kind == "l2" else features_ND
