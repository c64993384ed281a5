"""CMPL beyond what holds for every method. Letters: B batch, K classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.common.models import VideoClassifier, build_model
from aplt.trainer.config import CMPLConfig
from aplt.trainer.methods import Batch
from aplt.trainer.methods.cmpl import CMPL

B, K = 3, 4
SIZES: dict[str, Any] = {"num_classes": K, "feature_dim": 128, "num_unlabeled": B, "normalize": "l2"}


def views() -> Batch:
    generator = torch.Generator().manual_seed(0)
    clips = {
        name: torch.randn(B, 2, 3, 16, 16, generator=generator)
        for name in ("labeled_weak", "unlabeled_weak", "unlabeled_strong")
    }
    return Batch(progress=0.5, labels_B=torch.tensor([0, 1, 2]), position_B=torch.arange(B), **clips)


class Fixed(nn.Module):
    """Logits that depend on the view alone, whatever the clips; remembers what it saw."""

    def __init__(self, *logits: list[float]) -> None:
        super().__init__()
        self.logits_VK = nn.Parameter(torch.tensor(logits))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = clips
        logits_NK = self.logits_VK.repeat_interleave(B, dim=0)
        return logits_NK, logits_NK


def test_each_network_learns_from_the_other_ones_confident_predictions() -> None:
    model = Fixed([0.0, 0, 0, 0], [0, 0, 0, 9], [1.0, 0, 0, 0])  # labelled, weak, strong; sure of class 3
    method = CMPL(CMPLConfig(), **SIZES)
    method.auxiliary = Fixed([0.0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1.0, 0])  # sure of nothing
    parts = method.loss(model, views()).parts
    assert parts["u_logits"] == 0
    assert torch.allclose(parts["u_auxiliary"], F.cross_entropy(torch.tensor([[0, 0, 1.0, 0]]), torch.tensor([3])))
    assert torch.equal(model.seen, method.auxiliary.seen)  # the same views

    method.loss(model, views()).loss.backward()  # type: ignore[no-untyped-call]
    labelled_K, weak_K, strong_K = method.auxiliary.logits_VK.grad.abs() > 0  # type: ignore[union-attr]
    assert (labelled_K.any(), weak_K.any(), strong_K.any()) == (True, False, True)


def test_the_auxiliary_network_is_narrower_and_trained_with_the_primary_one() -> None:
    model = build_model("tiny_tsm", num_classes=K)
    method = CMPL(CMPLConfig(tau=0.0), **SIZES)
    method.begin(model)
    auxiliary = method.auxiliary
    assert isinstance(auxiliary, VideoClassifier)
    assert auxiliary.feature_dim == model.feature_dim // 2
    output = method.loss(model, views())
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad.any() for parameter in auxiliary.parameters())  # type: ignore[union-attr]
    parts = output.parts
    assert torch.allclose(output.loss, sum(parts.values(), torch.zeros(())))
    assert method.tested(model) is model
