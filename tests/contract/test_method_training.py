"""Every method in the real training loop, on made-up clips and a network of a few channels, in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from short_training import CLASSES, everything, labels_for, made_up_data, training

from aplt.common.artifacts import Checkpoint
from aplt.common.data.prepared import PreparedData
from aplt.common.models import build_model
from aplt.trainer.loop import train_epoch, train_step
from aplt.trainer.methods import METHODS
from aplt.trainer.methods.finessl import FineSSL
from aplt.trainer.methods.mean_teacher import MeanTeacher

every_method = pytest.mark.parametrize("name", sorted(METHODS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return made_up_data(tmp_path_factory.mktemp("clips") / "cache")


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
    with training(name, data, tmp_path) as (_, state, loader):
        assert not state.method.uses_labeled_strong  # before there are labels
        if state.method.config.uses_labels:
            state.method.adopt(labels_for(data, state.model.feature_dim))
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
        "labeled_strong": name == "aplt",
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
        train_step(trainer.config, state, batch)
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
