"""Every method in the real training loop, on made-up clips and a network of a few channels, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aplt.common.artifacts import Checkpoint, LabelVersion
from aplt.common.data.cache import CacheWriter, ClipCache, cache_settings
from aplt.common.data.frames import Frames
from aplt.common.data.manifest import Clip, Manifest
from aplt.common.data.prepared import PreparedData
from aplt.common.device import use_threads
from aplt.common.models import build_model
from aplt.common.records import MetricLog
from aplt.common.service import RoleClaim
from aplt.common.store import ArtifactStore
from aplt.common.views import Augmentation
from aplt.deploy.config import parse_config
from aplt.deploy.services import provenance_of
from aplt.trainer.loader import Loader
from aplt.trainer.loop import Trainer, train_epoch, train_step
from aplt.trainer.methods import METHODS
from aplt.trainer.methods.finessl import FineSSL
from aplt.trainer.methods.mean_teacher import MeanTeacher
from aplt.trainer.state import TrainState, init_state

CLIPS, LABELED, CLASSES, FRAMES, SIZE = 10, 4, 3, 2, 20
CPU = torch.device("cpu")

every_method = pytest.mark.parametrize("name", sorted(METHODS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("clips") / "cache"
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
def training(name: str, data: PreparedData, folder: Path) -> Iterator[tuple[Trainer, TrainState, Loader]]:
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
            "method": {"name": name},
            "schedule": {"warmup_epochs": 1, "epochs": 2, "lead_epochs": 0},
            "trainer": {"batch_size": 4, "lr": 0.02, "device": "cpu"},
        },
        source="test",
    )
    state, plan = init_state(config, data, CPU), config.plan()
    loader = Loader(
        data,
        Augmentation.of(config.data, seed=0),
        state.method,
        seed=0,
        num_epochs=plan.total_epochs,
        batch_size=4,
        mu=1,
        device=CPU,
    )
    store = ArtifactStore(config.store.url, config.run)
    with RoleClaim(store, "trainer") as claim, MetricLog(folder, "trainer", claim=1) as log:
        provenance = provenance_of("trainer", config)
        trainer = Trainer(config=config, plan=plan, store=store, data=data, claim=claim, provenance=provenance, log=log)
        yield trainer, state, loader


def labels_for(data: PreparedData, feature_dim: int) -> LabelVersion:
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
    arrays = {**checkpoint.weights, **{f"state/{name}": value for name, value in checkpoint.state.items()}}
    if checkpoint.online_labels_N is not None:
        arrays["online"] = checkpoint.online_labels_N
    return {name: (str(value.dtype), value.tobytes()) for name, value in arrays.items()}


@every_method
def test_it_goes_on_from_a_checkpoint_to_the_bit(name: str, data: PreparedData, tmp_path: Path) -> None:
    with training(name, data, tmp_path / "whole") as (trainer, state, loader):
        train_epoch(trainer, state, loader)
        if trainer.config.method.uses_labels:
            state.method.adopt(labels_for(data, state.model.feature_dim))
        train_epoch(trainer, state, loader)
        checkpoint = state.checkpoint()
        objects, scalars, saved = checkpoint.encode(), checkpoint.to_scalars(), everything(checkpoint)
        train_epoch(trainer, state, loader)
        expected = everything(state.checkpoint())
    with training(name, data, tmp_path / "resumed") as (trainer, state, loader):
        state.restore(Checkpoint.decode(objects, scalars))
        assert everything(state.checkpoint()) == saved
        train_epoch(trainer, state, loader)
        assert everything(state.checkpoint()) == expected


@every_method
def test_the_loader_makes_the_views_that_it_asks_for(name: str, data: PreparedData, tmp_path: Path) -> None:
    method = METHODS[name]
    with training(name, data, tmp_path) as (_, _, loader):
        batches = [batch for epoch in (1, 2, 3) for _, batch in loader.epoch(epoch)]
    assert [batch.progress for batch in batches] == pytest.approx([step / 6 for step in range(6)])
    if method.uses_unlabeled_weak_2:
        assert not torch.equal(batches[0].unlabeled_weak, batches[0].unlabeled_weak_2)  # type: ignore[arg-type]
    if method.uses_unlabeled_strong_2:
        assert not torch.equal(batches[0].unlabeled_strong, batches[0].unlabeled_strong_2)  # type: ignore[arg-type]
    views = {
        view for view, value in vars(batches[0]).items() if "weak" in view or "strong" in view if value is not None
    }
    asked = {
        "labeled_weak": True,
        "labeled_weak_tg": method.uses_temporal_gradients,
        "labeled_strong": method.uses_labeled_strong,
        "unlabeled_weak": method.uses_unlabeled,
        "unlabeled_weak_tg": method.uses_temporal_gradients,
        "unlabeled_weak_2": method.uses_unlabeled and method.uses_unlabeled_weak_2,
        "unlabeled_strong": method.uses_unlabeled and method.uses_unlabeled_strong,
        "unlabeled_strong_tg": method.uses_temporal_gradients,
        "unlabeled_strong_2": method.uses_unlabeled and method.uses_unlabeled_strong_2,
    }
    assert views == {view for view, is_asked in asked.items() if is_asked}


def test_the_teacher_follows_after_each_step_and_is_what_a_checkpoint_offers_for_testing(
    data: PreparedData, tmp_path: Path
) -> None:
    with training("mean_teacher", data, tmp_path) as (trainer, state, loader):
        method = state.method
        assert isinstance(method, MeanTeacher)
        _, batch = next(iter(loader.epoch(1)))
        train_step(trainer, state, batch)
        for averaged, trained in zip(method.teacher.parameters(), state.model.parameters(), strict=True):
            assert torch.equal(averaged, trained)  # the first update takes all over, from after the step
        train_epoch(trainer, state, loader)
        checkpoint = state.checkpoint()
        assert checkpoint.weights.keys() == state.model.state_dict().keys()
        for name, value in method.teacher.state_dict().items():
            assert np.array_equal(checkpoint.weights[name].ravel(), value.ravel())
        for name, value in state.model.state_dict().items():
            assert np.array_equal(checkpoint.state[f"trained/{name}"].ravel(), value.ravel())
        assert not torch.equal(method.teacher.head.weight, state.model.head.weight)  # type: ignore[union-attr, arg-type]
        assert all(parameter.grad is None for parameter in method.teacher.parameters())


def test_a_head_of_the_method_is_trained_and_saved_beside_the_one_that_is_tested(
    data: PreparedData, tmp_path: Path
) -> None:
    with training("finessl", data, tmp_path) as (trainer, state, loader):
        method = state.method
        assert isinstance(method, FineSSL)
        before = method.auxiliary.state_dict()["weight"].clone()
        train_epoch(trainer, state, loader)
        checkpoint = state.checkpoint()
        assert not torch.equal(before, method.auxiliary.state_dict()["weight"])
        own = method.auxiliary.state_dict()
        assert all(np.array_equal(checkpoint.state[f"method/auxiliary.{name}"], value) for name, value in own.items())
        assert {f"momentum/method.auxiliary.{name}" for name in own} <= checkpoint.state.keys()
        assert not np.array_equal(checkpoint.weights["head.weight"], checkpoint.state["method/auxiliary.weight"])
        tested = build_model("tiny_tsm", num_classes=CLASSES, cosine_head=trainer.config.method.cosine_head)
        tested.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in checkpoint.weights.items()})


def test_each_epoch_starts_without_what_the_last_one_selected(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    with training("finessl", data, tmp_path) as (trainer, state, loader):
        method = state.method
        assert isinstance(method, FineSSL)
        method.selected.fill_(1)
        loss = method.loss
        monkeypatch.setattr(method, "loss", lambda *views: (seen.append(method.selected.clone()), loss(*views))[1])
        train_epoch(trainer, state, loader)
    assert (seen[0] == -1).all()
