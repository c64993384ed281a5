"""Methods with networks of their own, or views of their own length, on other kinds of network."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from aplt.common.models import build_model
from aplt.trainer.config import AnyMethodConfig
from aplt.trainer.methods import METHODS, Batch

B, K = 2, 3


@pytest.mark.slow
@pytest.mark.parametrize("network", ["tsn_resnet18", "r3d_18", "swin3d_t"])
@pytest.mark.parametrize("name", ["cmpl", "ltg", "svformer", "tcl"])
def test_a_step_trains_any_network(name: str, network: str) -> None:
    generator = torch.Generator().manual_seed(0)
    views = {
        view: torch.randn(B, 4, 3, 32, 32, generator=generator)
        for view in Batch.__annotations__
        if view.startswith(("labeled", "unlabeled"))
    }
    batch = Batch(progress=0.5, labels_B=torch.arange(B), position_B=torch.arange(B), **views)
    model = build_model(network, num_classes=K)
    config = TypeAdapter(AnyMethodConfig).validate_python({"name": name})
    method = METHODS[name](config, num_classes=K, feature_dim=model.feature_dim, num_unlabeled=B, normalize="l2")
    method.begin(model)
    method.loss(model, batch).loss.backward()  # type: ignore[no-untyped-call]
    method.after_step(model)
    for parameter in [*model.parameters(), *method.parameters()]:
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    assert all(parameter.grad is not None for parameter in model.parameters())
