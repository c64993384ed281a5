"""Any method in the real training loop, on made-up clips and the tiny network, in one process or several ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aplt.common.artifacts import Checkpoint, LabelVersion
from aplt.common.data.cache import CacheWriter, ClipCache, cache_settings
from aplt.common.data.frames import Frames
from aplt.common.data.manifest import Clip, Manifest
from aplt.common.data.prepared import PreparedData
from aplt.common.device import use_threads
from aplt.common.records import MetricLog
from aplt.common.service import RoleClaim
from aplt.common.store import ArtifactStore
from aplt.deploy.config import parse_config
from aplt.deploy.services import provenance_of
from aplt.trainer.loader import Loader
from aplt.trainer.loop import Trainer, loader_of
from aplt.trainer.state import TrainState, init_state

CLIPS, LABELED, CLASSES, FRAMES, SIZE = 10, 4, 3, 2, 20
BATCH = 4
CPU = torch.device("cpu")


def made_up_data(folder: Path) -> PreparedData:
    """Return prepared data of random pixels, of which the folder holds the cache."""
    settings = cache_settings(num_segments=FRAMES, frames_per_segment=1, size=SIZE, fit="crop")
    random = np.random.default_rng(0)
    with CacheWriter(folder, settings=settings, identities=[[row] for row in range(CLIPS)]) as cache:
        for row in range(CLIPS):
            pixels = random.integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
            cache.add(row, Frames(pixels, fps=30.0, nframes=FRAMES, width=SIZE, height=SIZE))
        cache.finish()
    labeled = np.arange(LABELED, dtype=np.int32)
    return PreparedData(
        manifest=Manifest.of(Clip(clip_id=str(row), video=str(row)) for row in range(CLIPS)),
        class_names=tuple(map(str, range(CLASSES))),
        labeled_rows_M=labeled,
        labels_M=(labeled % CLASSES).astype(np.int16),
        unlabeled_rows_N=np.arange(LABELED, CLIPS, dtype=np.int32),
        test_rows_T=np.zeros(0, dtype=np.int32),
        clips=ClipCache.open(folder),
        digest="",
    )


@contextmanager
def training(
    name: str, data: PreparedData, folder: Path, *, ranks: int = 1, **settings: object
) -> Iterator[tuple[Trainer, TrainState, Loader]]:
    """Yield a trainer in this process before its first epoch, of the method called `name` with these settings."""
    use_threads(1)
    config = parse_config(
        {
            "run": "run",
            "store": {"url": str(folder)},
            "data": {
                "root": str(folder),
                "num_frames": FRAMES,
                "frames_per_segment": 1,
                "clip_size": SIZE,
                "crop_size": SIZE - 4,
            },
            "model": {"name": "tiny_tsm"},
            "method": {"name": name, **settings},
            "schedule": {"warmup_epochs": 1, "epochs": 2, "lead_epochs": 0},
            "trainer": {"batch_size": BATCH, "lr": 0.02, "device": "cpu", "ranks": ranks},
        },
        source="test",
    )
    state = init_state(config, data, CPU)
    store = ArtifactStore(config.store.url, config.run)
    with RoleClaim(store, "trainer") as claim, MetricLog(folder, "trainer", claim=1) as log:
        provenance = provenance_of("trainer", config)
        trainer = Trainer(
            config=config, plan=config.plan(), store=store, data=data, claim=claim, provenance=provenance, log=log
        )
        yield trainer, state, loader_of(config, data, state)


def labels_for(data: PreparedData, feature_dim: int) -> LabelVersion:
    """Return a first label version for these clips that keeps every other one."""
    num = len(data.unlabeled_rows_N)
    prototypes_KD = np.eye(CLASSES, feature_dim, dtype=np.float32)
    return LabelVersion(
        version=1,
        epoch=1,
        rows_N=data.unlabeled_rows_N,
        labels_N=(np.arange(num) % CLASSES).astype(np.int16),
        distances_N=np.ones(num, dtype=np.float32),
        kept_N=np.arange(num) % 2 == 0,
        centroids_KD=prototypes_KD,
        prototypes_KD=prototypes_KD,
        support_K=np.ones(CLASSES, dtype=np.int64),
        local_K=np.ones(CLASSES, dtype=np.float32),
        adaptive_K=np.ones(CLASSES, dtype=np.float32),
        global_threshold=1.0,
        ratio=1.0,
        num_iterations=1,
        converged=True,
    )


def everything(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return all that a checkpoint holds, equal if equal to the bit."""
    arrays = {**checkpoint.weights, **{f"state/{name}": value for name, value in checkpoint.state.items()}}
    if checkpoint.online_labels_N is not None:
        arrays["online"] = checkpoint.online_labels_N
    return {name: (str(value.dtype), value.tobytes()) for name, value in arrays.items()}
