"""What every method must do, whatever it is. A new method is covered by its line in METHODS."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aplt.common.artifacts import LabelVersion
from aplt.common.config import MethodConfig
from aplt.common.models.classifier import Backbone, VideoClassifier
from aplt.trainer.config import AnyMethodConfig, APLTConfig, FixMatchConfig, SupervisedConfig, UDAConfig
from aplt.trainer.methods import METHODS, Batch, Method
from aplt.trainer.methods.aplt import APLT
from aplt.trainer.methods.fixmatch import FixMatch
from aplt.trainer.methods.supervised import Supervised
from aplt.trainer.methods.uda import UDA, annealed_cross_entropy

K, D, B, N = 3, 6, 4, 10
CONFIGS: dict[str, MethodConfig] = {config().name: config() for config in get_args(get_args(AnyMethodConfig)[0])}


class Colours(Backbone):
    """The mean colour of a whole clip, or of each frame, to features, without batch statistics."""

    def __init__(self, dim: int, *, folding: bool) -> None:
        super().__init__()
        self.linear, self.folding = nn.Linear(3, dim), folding

    def stages(self, frames: Tensor, num_frames: int) -> tuple[Tensor, list[Tensor]]:
        colours = frames.mean(dim=(2, 3))
        if not self.folding:
            colours = colours.unflatten(0, (-1, num_frames)).mean(dim=1)
        of_frames = self.linear(frames.mean(dim=(2, 3)))
        maps = of_frames if self.folding else of_frames.unflatten(0, (-1, num_frames)).movedim(1, 2)
        return self.linear(colours), 4 * [maps[..., None, None]]

    def narrower(self) -> Colours:
        return Colours(self.linear.out_features // 2, folding=self.folding)


class Network(VideoClassifier):
    """Clips [B, T, 3, H, W] to features and logits: clips are looked at whole, or frame by frame."""

    def __init__(self, *, folding: bool = False) -> None:
        super().__init__(Colours(D, folding=folding), feature_dim=D, num_classes=K)


def make_method(name: str, *, labels: bool = False) -> Method[Any]:
    method = METHODS[name](CONFIGS[name], num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
    method.begin(make_network())
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


def make_batch(name: str = "aplt", size: int = B, seed: int = 0, classes: int = K) -> Batch:
    """Return the views that the method called `name` asks for, late in the training."""
    torch.manual_seed(seed)
    method = METHODS[name]
    unlabeled = method.uses_unlabeled

    def view(asked: bool) -> Tensor | None:
        clips = torch.randn(size, 2, 3, 4, 4)
        return clips if asked else None

    labeled_weak = view(True)
    assert labeled_weak is not None
    return Batch(
        progress=0.5,
        labels_B=torch.arange(size) % classes,
        labeled_weak=labeled_weak,
        labeled_weak_tg=view(method.uses_temporal_gradients),
        labeled_strong=view(make_method(name, labels=True).uses_labeled_strong),
        unlabeled_weak=view(unlabeled),
        unlabeled_weak_tg=view(method.uses_temporal_gradients),
        unlabeled_weak_2=view(unlabeled and method.uses_unlabeled_weak_2),
        unlabeled_strong=view(unlabeled and method.uses_unlabeled_strong),
        unlabeled_strong_tg=view(method.uses_temporal_gradients),
        unlabeled_strong_2=view(unlabeled and method.uses_unlabeled_strong_2),
        position_B=torch.arange(size) % N if unlabeled else None,
    )


def make_network(sharpness: float = 1.0, *, folding: bool = False) -> Network:
    """Return a network that is sure of nothing with sharpness 0, and of everything with a great one."""
    torch.manual_seed(7)
    network = Network(folding=folding)
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.mul_(sharpness)
    return network


SURE, UNSURE = 60.0, 0.0
STUDENTS: dict[str, set[str]] = {
    "finessl": {"unlabeled_strong", "unlabeled_strong_2"},
    "infomatch": {"unlabeled_weak", "unlabeled_strong", "unlabeled_strong_2"},  # the weak one as part of CutMix
    # The weak ones by what compares the two networks.
    "ltg": {"unlabeled_weak", "unlabeled_weak_tg", "unlabeled_strong", "unlabeled_strong_tg"},
    "mean_teacher": {"unlabeled_weak_2"},
    "mixmatch": {"unlabeled_weak", "unlabeled_weak_2"},
    "pseudo_label": {"unlabeled_weak"},
    "tcl": {"unlabeled_weak_2"},
    "supervised": set(),
    "vat": {"unlabeled_weak"},
}
"""The unlabelled views that a method trains on, where that is not the strong one. It reads others without gradient."""
LABELED_SHARE = {"ltg": 0.5}
"""The share of the network that is tested in the loss of labelled clips, where two are trained with its mean."""
every_method = pytest.mark.parametrize("name", sorted(METHODS))


def test_every_method_has_a_configuration() -> None:
    assert sorted(CONFIGS) == sorted(METHODS)


@every_method
@pytest.mark.parametrize("size", [1, B])
@pytest.mark.parametrize("sharpness", [1.0, SURE])
def test_the_loss_is_finite_and_reaches_the_network(name: str, size: int, sharpness: float) -> None:
    model = make_network(sharpness)
    output = make_method(name, labels=True).loss(model, make_batch(name, size))
    assert torch.isfinite(output.loss)
    assert all(not part.requires_grad for part in output.parts.values())
    assert not output.labeled_features_BD.requires_grad
    output.loss.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0


@every_method
def test_under_mixed_precision_the_loss_is_about_the_same(name: str) -> None:
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        method, batch, model = make_method(name, labels=True), make_batch(name), make_network()
        method.begin(model)
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses.append(method.loss(model, batch).loss)
    assert losses[1].dtype == torch.float32
    assert torch.allclose(*losses, rtol=0.05)


@every_method
def test_a_network_that_is_sure_of_nothing_is_fine(name: str) -> None:
    model = make_network(UNSURE)
    output = make_method(name, labels=True).loss(model, make_batch(name))
    assert torch.isfinite(output.loss)
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@every_method
def test_a_missing_class_in_the_batch_is_fine(name: str) -> None:
    method, batch = make_method(name, labels=True), make_batch(name, classes=1)
    assert torch.isfinite(method.loss(make_network(), batch).loss)


@every_method
def test_students_get_a_gradient_and_targets_none(name: str) -> None:
    """Clips of different views do not meet in this network, so the gradient of a view tells who was trained on it."""
    batch = make_batch(name, size=16)
    views = {view: value for view, value in vars(batch).items() if view.startswith("unlabeled") and value is not None}
    for value in views.values():
        value.requires_grad_()
    make_method(name).loss(make_network(SURE), batch).loss.backward()  # type: ignore[no-untyped-call]
    trained = {view for view, value in views.items() if value.grad is not None and value.grad.abs().sum() > 0}
    assert trained == STUDENTS.get(name, {"unlabeled_strong"})


@every_method
def test_state_survives_saving_and_loading(name: str) -> None:
    first, model = make_method(name, labels=True), make_network(SURE)
    for seed in range(3):
        first.loss(model, make_batch(name, seed=seed))
        first.after_step(model)
    second = make_method(name)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for seed in range(3, 6):
        batch = make_batch(name, seed=seed)
        losses = []
        for method in (first, second):
            torch.manual_seed(seed)  # MixMatch draws how it mixes
            losses.append(method.loss(model, batch).loss)
            method.after_step(model)
        assert torch.equal(*losses)


@every_method
def test_state_is_counted_or_in_full_precision(name: str) -> None:
    dtypes = {value.dtype for value in make_method(name).state_dict().values()}
    assert dtypes <= {torch.float32, torch.int64, torch.bool}


@every_method
def test_without_the_unlabelled_weights_it_is_supervised_training(name: str) -> None:
    """To the network that is tested, whatever others learn beside it."""
    weights = {key: 0.0 for key in type(CONFIGS[name]).model_fields if key.startswith("lambda")}
    mixes_nothing = {"alpha": 0.0} if name == "mixmatch" else {}
    config = CONFIGS[name].model_copy(update=weights | mixes_nothing)
    method = METHODS[name](config, num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
    method.begin(make_network())
    supervised = Supervised(SupervisedConfig(), num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
    model, batch = make_network(), make_batch(name)
    found, expected = (
        torch.autograd.grad(each.loss(model, batch).loss, list(model.parameters())) for each in (method, supervised)
    )
    share = LABELED_SHARE.get(name, 1.0)
    assert all(torch.allclose(ours, share * theirs, atol=1e-7) for ours, theirs in zip(found, expected, strict=True))


@every_method
def test_clips_and_folded_frames_agree(name: str) -> None:
    """A network that folds frames into the batch sees the same loss as one that does not."""

    losses = []
    for folding in (False, True):
        torch.manual_seed(0)
        method, batch, network = make_method(name, labels=True), make_batch(name), make_network(folding=folding)
        method.begin(network)
        torch.manual_seed(1)
        losses.append(method.loss(network, batch).loss)
    assert torch.allclose(*losses, atol=1e-6)


@pytest.mark.parametrize("name", sorted(name for name in METHODS if hasattr(CONFIGS[name], "tau")))
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_nothing_and_everything_passes(name: str, tau: float) -> None:
    config = CONFIGS[name].model_copy(update={"tau": tau})
    method = METHODS[name](config, num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
    model = make_network()
    method.begin(model)
    output = method.loss(model, dataclasses.replace(make_batch(name), progress=0.9))  # TCL uses tau in its last stage
    passes = tau == 0 or name == "flexmatch"  # at first its thresholds are 0, whatever tau is
    assert output.online_labels_B is not None
    assert ((output.online_labels_B >= 0) == passes).all()
    if name != "finessl":  # tau decides there what the auxiliary head is taught
        assert (output.parts["u_logits"] > 0) == passes
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


def fixmatch(tau: float) -> FixMatch:
    return FixMatch(FixMatchConfig(tau=tau), num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")


def aplt(**settings: Any) -> APLT:
    config = APLTConfig.model_validate({"name": "aplt", **settings})
    return APLT(config, num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")


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
        assert model.backbone.linear.weight.grad is not None
        gradients.append((model.head.weight.grad.clone(), model.backbone.linear.weight.grad.clone()))
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


def test_pseudo_label_is_supervised_training_at_first_and_reaches_its_weight_at_the_end_of_the_ramp() -> None:
    model, batch = make_network(SURE), make_batch("pseudo_label", size=16)

    def loss(progress: float) -> Tensor:
        return make_method("pseudo_label").loss(model, dataclasses.replace(batch, progress=progress)).loss

    supervised, full = loss(0.0), loss(0.4)
    assert full > supervised
    assert torch.allclose(loss(0.1), supervised + (full - supervised) / 4)
    assert torch.equal(loss(0.9), full)


def test_uda_sharpens_its_targets() -> None:
    """A public implementation hands probabilities on as if they were sharpened: the temperature changes nothing."""
    model, batch = make_network(), make_batch("uda")

    def consistency(sharpening: float) -> Tensor:
        config = UDAConfig(tau=0.0, sharpening=sharpening)
        method = UDA(config, num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
        return method.loss(model, batch).parts["u_logits"]

    assert not torch.allclose(consistency(0.4), consistency(1.0), rtol=0.01)
    hard = fixmatch(0.0).loss(model, make_batch("fixmatch")).parts["u_logits"]
    assert torch.allclose(consistency(1e-4), hard, rtol=1e-3)


def test_uda_decides_on_the_confidence_before_sharpening() -> None:
    model, batch = make_network(), make_batch("uda")
    confidence = model(batch.unlabeled_weak)[1].detach().softmax(dim=1).max()
    config = UDAConfig(tau=float(confidence) + 0.01, sharpening=1e-3)
    output = UDA(config, num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2").loss(model, batch)
    assert output.parts["u_logits"] == 0


def test_uda_with_an_annealed_signal_leaves_out_what_is_learnt_already() -> None:
    logits_BK, labels_B = torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0])
    everything = annealed_cross_entropy(logits_BK, labels_B, eta=1.0)
    assert torch.allclose(everything, torch.nn.functional.cross_entropy(logits_BK, labels_B))
    wrong_alone = annealed_cross_entropy(logits_BK, labels_B, eta=0.9)
    assert float(wrong_alone) == pytest.approx(float(everything), abs=0.01)  # half of 5.007: over the whole batch
    assert wrong_alone < everything
