"""FineSSL beyond what holds for every method. Letters: B batch, D features, K classes, N unlabelled clips."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.common.models import CosineHead, build_model
from aplt.trainer.config import FineSSLConfig
from aplt.trainer.methods import Batch
from aplt.trainer.methods.finessl import FineSSL, class_margins, smoothed_loss, with_margin

B, K, N = 3, 3, 6
SIZES: dict[str, Any] = {"num_classes": K, "feature_dim": 3, "num_unlabeled": N, "normalize": "l2"}


class Network(nn.Module):
    """Clips whose features are the mean of their pixels by colour, with a cosine head; remembers the logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(3, 3)
        self.head = CosineHead(3, K)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        features_ND = self.backbone(clips.mean(dim=(1, 3, 4)))
        self.logits_NK = self.head(features_ND)
        return features_ND, self.logits_NK

    def group(self, number: int) -> Tensor:
        """The logits of labelled, weak and both strong views, in this order."""
        return self.logits_NK[B * number : B * (number + 1)].detach()


def views(seed: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    clips = {
        name: 2 * torch.randn(B, 2, 3, 2, 2, generator=generator)
        for name in ("labeled_weak", "unlabeled_weak", "unlabeled_strong", "unlabeled_strong_2")
    }
    return Batch(progress=0.0, labels_B=torch.tensor([0, 1, 2]), position_B=torch.tensor([4, 0, 2]), **clips)


def finessl(model: nn.Module, **settings: float) -> FineSSL:
    method = FineSSL(FineSSLConfig.model_validate({"name": "finessl", **settings}), **SIZES)
    method.begin(model)
    return method


def test_the_loss_is_worked_out_by_hand() -> None:
    model = Network()
    method = finessl(model, tau=0.9)
    with torch.no_grad():
        method.auxiliary.weight += 0.3  # type: ignore[operator]
    method.selected.copy_(torch.tensor([0, 0, 1, 1, 0, 0]))
    batch = views()
    output = method.loss(model, batch)

    margins_K = class_margins(torch.tensor([1.0, 0.5, 0.0]), alpha=8.0)
    assert margins_K[0] == 0
    assert margins_K[1] < margins_K[2]
    features = model.backbone(
        torch.cat([batch.labeled_weak, batch.unlabeled_weak, batch.unlabeled_strong, batch.unlabeled_strong_2]).mean(  # type: ignore[list-item]
            dim=(1, 3, 4)
        )
    )
    auxiliary_x, auxiliary_u, auxiliary_1, auxiliary_2 = method.auxiliary(features).detach().split(B)
    confidence_B, guess_B = model.group(1).softmax(dim=1).max(dim=1)
    trust_B = auxiliary_u.softmax(dim=1).amax(dim=1)
    kept_B = confidence_B >= 0.9
    assert 0 < kept_B.sum() < B
    assert (trust_B - confidence_B).abs().max() > 0.01  # the weight comes from the other head than the target

    assert torch.allclose(
        output.parts["sup_logits"],
        F.cross_entropy(with_margin(model.group(0), batch.labels_B, margins_K), batch.labels_B),
    )
    assert torch.allclose(output.parts["sup_auxiliary"], F.cross_entropy(auxiliary_x, batch.labels_B))
    each = [
        trust_B * F.cross_entropy(with_margin(model.group(number), guess_B, margins_K), guess_B, reduction="none")
        for number in (2, 3)
    ]
    assert torch.allclose(output.parts["u_logits"], torch.cat(each).sum() / (2 * B))
    smoothed = torch.cat([auxiliary_1[kept_B], auxiliary_2[kept_B]]).log_softmax(dim=1)
    target_BK = torch.full((B, K), 0.25).scatter(1, guess_B[:, None], 0.5)[kept_B].repeat(2, 1)
    assert torch.allclose(output.parts["u_auxiliary"], -(target_BK * smoothed).sum() / (2 * kept_B.sum()))
    parts = output.parts
    assert torch.allclose(
        output.loss,
        parts["sup_logits"] + 3 * parts["u_logits"] + parts["sup_auxiliary"] + parts["u_auxiliary"],
    )


def test_the_auxiliary_head_trains_itself_alone() -> None:
    model = Network()
    gradients = []
    for weight in (0.0, 1.0):
        method = finessl(model, lambda_auxiliary=weight)
        model.zero_grad()
        method.loss(model, views()).loss.backward()  # type: ignore[no-untyped-call]
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])  # type: ignore[union-attr]
        own = [parameter.grad for parameter in method.auxiliary.parameters()]
        assert all(value is not None and bool(value.any()) == (weight > 0) for value in own)
    assert all(torch.equal(without, with_it) for without, with_it in zip(*gradients, strict=True))


def test_the_auxiliary_head_starts_as_a_copy_of_the_main_one() -> None:
    model = Network()
    method = finessl(model)
    for own, main in zip(method.auxiliary.parameters(), model.head.parameters(), strict=True):
        assert torch.equal(own, main)
        assert own is not main
        assert own.requires_grad


def test_what_is_learnt_is_counted_by_clip_for_the_next_step_and_forgotten_with_the_epoch() -> None:
    model = Network()
    method = finessl(model, tau=0.0)
    first = method.loss(model, views())
    assert torch.allclose(  # no margins yet
        first.parts["sup_logits"], F.cross_entropy(model.group(0), views().labels_B)
    )
    assert first.online_labels_B is not None
    expected_N = torch.full((N,), -1)
    expected_N[torch.tensor([4, 0, 2])] = first.online_labels_B
    assert torch.equal(method.selected, expected_N)
    again = method.loss(model, views())
    assert again.parts["sup_logits"] > first.parts["sup_logits"]
    method.select(torch.tensor([4, 0, 2]), torch.full((B,), -1))
    assert torch.equal(method.selected, expected_N)
    method.start_epoch()
    assert (method.selected == -1).all()
    assert torch.equal(method.loss(model, views()).parts["sup_logits"], first.parts["sup_logits"])


def test_nothing_is_kept_and_everything_is_kept() -> None:
    logits_BK = torch.randn(B, K, generator=torch.Generator().manual_seed(0), requires_grad=True)
    nothing = smoothed_loss(logits_BK, torch.full((B,), -1), smoothing=0.5)
    assert nothing == 0
    assert torch.equal(torch.autograd.grad(nothing, logits_BK)[0], torch.zeros(B, K))
    one = smoothed_loss(logits_BK, torch.tensor([-1, 1, -1]), smoothing=0.0)
    assert torch.allclose(one, F.cross_entropy(logits_BK[1:2], torch.tensor([1])))  # over the kept clips
    assert torch.equal(class_margins(torch.zeros(K), alpha=8.0), torch.zeros(K))
    assert torch.equal(class_margins(torch.ones(K), alpha=8.0), torch.zeros(K))


def test_a_margin_makes_a_class_harder() -> None:
    logits_BK, target_B = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1])
    losses = [F.cross_entropy(with_margin(logits_BK, target_B, torch.tensor([9.0, m, 9.0])), target_B) for m in (0, 1)]
    assert torch.equal(losses[0], F.cross_entropy(logits_BK, target_B))
    assert losses[1] > losses[0]


def test_a_cosine_head_looks_at_directions_and_learns_its_scale() -> None:
    head = CosineHead(3, K)
    assert head.scale.item() == pytest.approx(1 / 0.07)
    features_BD = torch.randn(B, 3, generator=torch.Generator().manual_seed(0))
    logits_BK = head(features_BD)
    assert torch.allclose(head(5 * features_BD), logits_BK, atol=1e-5)
    cosines_BK = F.cosine_similarity(features_BD[:, None], head.weight[None], dim=2)
    assert torch.allclose(logits_BK, cosines_BK / 0.07, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(features_BD), logits_BK)
    assert head.scale.requires_grad
    assert torch.isfinite(head(torch.zeros(B, 3))).all()


@pytest.mark.parametrize("cosine", [False, True])
def test_weights_of_a_network_with_the_other_head_serve_without_it(
    cosine: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = build_model("tiny_tsm", num_classes=K, seed=1, cosine_head=not cosine)
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        loaded = build_model("tiny_tsm", num_classes=K, init=str(tmp_path / "w.pth"), cosine_head=cosine)
    fresh = build_model("tiny_tsm", num_classes=K, cosine_head=cosine)
    assert torch.equal(loaded.head.weight, fresh.head.weight)
    assert torch.equal(
        loaded.state_dict()["backbone.stem.still.weight"], trained.state_dict()["backbone.stem.still.weight"]
    )
    assert "the head starts from scratch" in caplog.text
