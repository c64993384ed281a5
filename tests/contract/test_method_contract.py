"""What every method must do, whatever it is. A new method is covered by its line in METHODS."""

from __future__ import annotations

import copy
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aplt.common.artifacts import LabelVersion
from aplt.common.config import MethodConfig
from aplt.trainer.config import AnyMethodConfig, APLTConfig, FixMatchConfig, SupervisedConfig
from aplt.trainer.methods import METHODS, Batch, Method
from aplt.trainer.methods.aplt import APLT
from aplt.trainer.methods.fixmatch import FixMatch
from aplt.trainer.methods.supervised import Supervised

K, D, B, N = 3, 6, 4, 10
CONFIGS: dict[str, MethodConfig] = {config().name: config() for config in get_args(get_args(AnyMethodConfig)[0])}


class Network(nn.Module):
    """Clips [B, T, 3, H, W] to features and logits, without batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, D)
        self.head = nn.Linear(D, K)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        features_BD = self.backbone(clips.mean(dim=(1, 3, 4)))
        return features_BD, self.head(features_BD)


def make_method(name: str, *, labels: bool = False) -> Method[Any]:
    method = METHODS[name](CONFIGS[name], num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
    if labels and CONFIGS[name].uses_labels:
        method.adopt(make_labels())
    return method


def make_labels(kept: bool | None = None) -> LabelVersion:
    rng = np.random.default_rng(0)
    prototypes_KD = rng.normal(size=(K, D)).astype(np.float32)
    return LabelVersion(
        version=1,
        epoch=2,
        rows_N=np.arange(N, dtype=np.int32),
        labels_N=(np.arange(N) % K).astype(np.int16),
        distances_N=np.ones(N, dtype=np.float32),
        kept_N=np.arange(N) % 2 == 0 if kept is None else np.full(N, kept),
        centroids_KD=prototypes_KD,
        prototypes_KD=prototypes_KD / np.linalg.norm(prototypes_KD, axis=1, keepdims=True),
        support_K=np.full(K, 3, dtype=np.int64),
        local_K=np.ones(K, dtype=np.float32),
        adaptive_K=np.ones(K, dtype=np.float32),
        global_threshold=1.0,
        ratio=1.0,
        num_iterations=1,
        converged=True,
    )


def make_batch(size: int = B, seed: int = 0, classes: int = K) -> Batch:
    torch.manual_seed(seed)

    def view() -> Tensor:
        return torch.randn(size, 2, 3, 4, 4)

    return Batch(
        labels_B=torch.arange(size) % classes,
        labeled_weak=view(),
        labeled_strong=view(),
        unlabeled_weak=view(),
        unlabeled_strong=view(),
        position_B=torch.arange(size) % N,
    )


def make_network() -> Network:
    torch.manual_seed(7)
    return Network()


every_method = pytest.mark.parametrize("name", sorted(METHODS))


def test_every_method_has_a_configuration() -> None:
    assert sorted(CONFIGS) == sorted(METHODS)


@every_method
@pytest.mark.parametrize("size", [1, B])
def test_the_loss_is_finite_and_reaches_the_network(name: str, size: int) -> None:
    model = make_network()
    output = make_method(name, labels=True).loss(model, make_batch(size))
    assert torch.isfinite(output.loss)
    assert all(not part.requires_grad for part in output.parts.values())
    assert not output.labeled_features_BD.requires_grad
    output.loss.backward()  # type: ignore[no-untyped-call]
    gradient = model.backbone.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@every_method
def test_a_missing_class_in_the_batch_is_fine(name: str) -> None:
    assert torch.isfinite(make_method(name, labels=True).loss(make_network(), make_batch(classes=1)).loss)


@every_method
def test_state_survives_saving_and_loading(name: str) -> None:
    first = make_method(name, labels=True)
    second = make_method(name)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    model, batch = make_network(), make_batch()
    assert torch.equal(first.loss(model, batch).loss, second.loss(model, batch).loss)


@every_method
def test_without_the_unlabelled_weights_it_is_supervised_training(name: str) -> None:
    weights = {key: 0.0 for key in type(CONFIGS[name]).model_fields if key.startswith("lambda")}
    config = CONFIGS[name].model_copy(update=weights)
    method = METHODS[name](config, num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
    supervised = Supervised(SupervisedConfig(), num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
    model, batch = make_network(), make_batch()
    assert torch.allclose(method.loss(model, batch).loss, supervised.loss(model, batch).loss)


@every_method
def test_clips_and_folded_frames_agree(name: str) -> None:
    """A network that folds frames into the batch sees the same loss as one that does not."""

    class Folding(Network):
        def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
            frames = clips.flatten(0, 1).mean(dim=(2, 3))
            features_BD = self.backbone(frames).unflatten(0, clips.shape[:2]).mean(dim=1)
            return features_BD, self.head(features_BD)

    folding = Folding()
    folding.load_state_dict(make_network().state_dict())
    method, batch = make_method(name, labels=True), make_batch()
    assert torch.allclose(method.loss(folding, batch).loss, method.loss(make_network(), batch).loss, atol=1e-6)


def fixmatch(tau: float) -> FixMatch:
    return FixMatch(FixMatchConfig(tau=tau), num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")


def aplt(**settings: Any) -> APLT:
    config = APLTConfig.model_validate({"name": "aplt", **settings})
    return APLT(config, num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")


def test_fixmatch_when_nothing_and_when_everything_passes() -> None:
    model, batch = make_network(), make_batch()
    nothing, everything = fixmatch(1.0).loss(model, batch), fixmatch(0.0).loss(model, batch)
    assert nothing.parts["u_logits"] == 0
    assert nothing.online_labels_B is not None
    assert (nothing.online_labels_B == -1).all()
    assert everything.online_labels_B is not None
    assert (everything.online_labels_B >= 0).all()
    assert everything.parts["u_logits"] > 0


def test_aplt_is_fixmatch_during_the_warm_up() -> None:
    model, batch = make_network(), make_batch()
    assert torch.equal(aplt(tau=0.4).loss(model, batch).loss, fixmatch(0.4).loss(model, batch).loss)


def test_aplt_trains_the_backbone_and_not_the_head_with_the_margin_loss() -> None:
    model, batch = make_network(), make_batch()
    with_margin, without = aplt(lambda_margin=1.0), aplt(lambda_margin=0.0)
    gradients = []
    for method in (with_margin, without):
        method.adopt(make_labels())
        model.zero_grad()
        method.loss(model, batch).loss.backward()  # type: ignore[no-untyped-call]
        assert model.head.weight.grad is not None
        assert model.backbone.weight.grad is not None
        gradients.append((model.head.weight.grad.clone(), model.backbone.weight.grad.clone()))
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-6)
    assert not torch.allclose(gradients[0][1], gradients[1][1])
    assert not with_margin.rho.requires_grad


def test_aplt_ignores_clips_that_were_screened_out() -> None:
    model, batch = make_network(), make_batch()
    nothing, everything = aplt(), aplt()
    nothing.adopt(make_labels(kept=False))
    everything.adopt(make_labels(kept=True))
    assert nothing.loss(model, batch).parts["u_margin"] == 0
    assert everything.loss(model, batch).parts["u_margin"] > 0
    assert (nothing.label == -1).all()


def test_aplt_takes_the_offline_label_of_the_right_clip() -> None:
    model, batch = make_network(), make_batch()
    method = aplt(margin_reduction="kept")
    method.adopt(make_labels(kept=True))
    shifted = Batch(**{**vars(batch), "position_B": (batch.position_B + 1) % N})  # type: ignore[operator]
    assert method.loss(model, batch).parts["u_margin"] != method.loss(model, shifted).parts["u_margin"]
