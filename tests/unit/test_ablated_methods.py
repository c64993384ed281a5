"""APLT and FixMatch as Tables 3 to 5 of the paper vary them.

Letters: N unlabelled clips, K classes, D features, B batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aplt.common.artifacts import LabelVersion
from aplt.trainer.config import APLTConfig, FixMatchConfig
from aplt.trainer.losses import cross_entropy, prototype_labels, pseudo_label_loss
from aplt.trainer.methods.aplt import APLT
from aplt.trainer.methods.base import Batch
from aplt.trainer.methods.fixmatch import FixMatch

K, D, B, N = 3, 6, 8, 12


class Network(nn.Module):
    """Clips [B, T, 3, H, W] to features and logits, without batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.backbone = nn.Linear(3, D)
        self.head = nn.Linear(D, K)
        self.seen = 0

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(clips)
        features_BD = self.backbone(clips.mean(dim=(1, 3, 4)))
        return features_BD, self.head(features_BD)


def batch_for(method: APLT | FixMatch) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(B, 2, 3, 4, 4, generator=generator) for _ in range(4)]
    return Batch(
        progress=0.5,
        labels_B=torch.arange(B) % K,
        labeled_weak=views[0],
        labeled_strong=views[1] if method.uses_labeled_strong else None,
        unlabeled_weak=views[2],
        unlabeled_strong=views[3],
        position_B=torch.arange(B),
    )


def versions(**changes: Any) -> LabelVersion:
    rng = np.random.default_rng(0)
    prototypes_KD = rng.normal(size=(K, D)).astype(np.float32)
    prototypes_KD /= np.linalg.norm(prototypes_KD, axis=1, keepdims=True)
    fields: dict[str, Any] = {
        "version": 1,
        "epoch": 2,
        "rows_N": np.arange(N, dtype=np.int32),
        "labels_N": (np.arange(N) % K).astype(np.int16),
        "distances_N": np.ones(N, np.float32),
        "kept_N": np.arange(N) % 2 == 0,
        "centroids_KD": prototypes_KD,
        "prototypes_KD": prototypes_KD,
        "support_K": np.full(K, 3, np.int64),
        "local_K": np.ones(K, np.float32),
        "adaptive_K": np.ones(K, np.float32),
        "global_threshold": 1.0,
        "ratio": 1.0,
        "num_iterations": 1,
        "converged": True,
    }
    return LabelVersion(**(fields | changes))


def aplt(labels: LabelVersion | None = None, **settings: Any) -> APLT:
    config = APLTConfig.model_validate({"tau": 0.4, **settings})
    method = APLT(config, num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
    method.adopt(versions() if labels is None else labels)
    return method


def gradients(method: APLT | FixMatch, model: Network) -> list[Tensor]:
    model.zero_grad()
    method.loss(model, batch_for(method)).loss.backward()  # type: ignore[no-untyped-call]
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_weak_views_in_the_margin_loss() -> None:
    """They are the views of the batch, and the labelled strong view is neither made nor forwarded."""
    weak, strong, model = aplt(margin_view="weak"), aplt(), Network()
    batch = batch_for(weak)
    assert batch.labeled_strong is None
    parts = weak.loss(model, batch).parts
    assert model.seen == 3 * B
    as_if_strong = Batch(
        **{**vars(batch), "labeled_strong": batch.labeled_weak, "unlabeled_strong": batch.unlabeled_weak}
    )
    expected = strong.loss(model, as_if_strong).parts
    assert torch.equal(parts["sup_margin"], expected["sup_margin"])
    assert torch.equal(parts["u_margin"], expected["u_margin"])
    of_strong = strong.loss(model, batch_for(strong)).parts
    assert not torch.equal(parts["sup_margin"], of_strong["sup_margin"])
    assert not torch.equal(parts["u_margin"], of_strong["u_margin"])


def test_online_labels_are_the_nearest_prototypes_within_the_thresholds() -> None:
    prototypes_KD = torch.eye(3)
    features_BD = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.6, 0.8], [0.0, 0.0, 1.0]])
    thresholds_K = torch.tensor([0.7, 0.1, 0.0])  # distances are 0, 0.632, 0.632, 0
    assert prototype_labels(features_BD, prototypes_KD, thresholds_K).tolist() == [0, 0, -1, -1]


def test_synchronous_aplt_trains_on_what_the_prototypes_predict_in_the_step() -> None:
    model, method = Network(), aplt(pseudo_labels="online")
    batch = batch_for(method)
    assert batch.unlabeled_weak is not None
    features_BD = nn.functional.normalize(model(batch.unlabeled_weak)[0])
    predicted_B = (features_BD @ method.rho.T).argmax(dim=1)
    distances_B = (features_BD - method.rho[predicted_B]).norm(dim=1).detach()
    middle = float(distances_B.median())  # B is even: half of the clips lie at most so far
    adopted = versions(adaptive_K=np.full(K, middle * 1.0001, np.float32))
    for labels, expected_B in ((adopted, distances_B <= middle), (versions(kept_N=np.ones(N, bool)), None)):
        online = aplt(labels, pseudo_labels="online")
        kept_B = torch.ones(B, dtype=torch.bool) if expected_B is None else expected_B
        as_offline = versions(
            labels_N=np.resize(predicted_B.numpy(), N).astype(np.int16), kept_N=np.resize(kept_B.numpy(), N)
        )
        output = online.loss(model, batch)
        assert output.parts["margin_share"] == kept_B.float().mean()
        assert torch.equal(output.loss, aplt(as_offline).loss(model, batch).loss)
    assert (aplt(versions(kept_N=np.zeros(N, bool)), pseudo_labels="online").threshold == 1).all()


def test_synchronous_aplt_takes_its_thresholds_along() -> None:
    first = aplt(versions(adaptive_K=np.array([0.5, 1.0, 1.5], np.float32)), pseudo_labels="online")
    second = aplt(pseudo_labels="online")
    second.load_state_dict(first.state_dict())
    assert second.threshold.tolist() == [0.5, 1.0, 1.5]
    assert "threshold" not in aplt().state_dict()


@pytest.mark.parametrize("view", ["strong", "weak"])
def test_variant_i_teaches_the_head_the_clusters_and_knows_no_prototypes(view: str) -> None:
    model, method = Network(), aplt(classifier="parametric", margin_view=view)
    batch, labels_B = batch_for(method), method.label[:B]
    assert batch.labeled_strong is None
    assert batch.unlabeled_weak is not None
    assert batch.unlabeled_strong is not None
    output = method.loss(model, batch)
    logits_BK = model(batch.unlabeled_strong if view == "strong" else batch.unlabeled_weak)[1]
    plain = FixMatch(FixMatchConfig(tau=0.4), num_classes=K, feature_dim=D, num_unlabeled=N, normalize="l2")
    expected = plain.loss(model, batch).loss + pseudo_label_loss(logits_BK, labels_B)
    torch.testing.assert_close(output.loss, expected)
    assert (labels_B >= 0).sum() == B // 2
    of_kept = cross_entropy(logits_BK[labels_B >= 0], labels_B[labels_B >= 0])
    torch.testing.assert_close(output.parts["u_offline"], of_kept.detach() / 2)

    ours, others = gradients(method, model), gradients(aplt(classifier="parametric", lambda_margin=0.0), model)
    assert not torch.allclose(ours[2], others[2])  # the head's weight
    moved = versions(prototypes_KD=-versions().prototypes_KD)
    assert all(map(torch.equal, ours, gradients(aplt(moved, classifier="parametric", margin_view=view), model)))


def test_variant_i_can_divide_by_the_kept_clips() -> None:
    model = Network()
    kept = aplt(classifier="parametric", margin_reduction="kept")
    by_kept = kept.loss(model, batch_for(kept)).parts["u_offline"]
    by_batch = aplt(classifier="parametric").loss(model, batch_for(kept)).parts["u_offline"]
    torch.testing.assert_close(by_kept, 2 * by_batch)


def test_asynchronous_fixmatch_is_online_until_there_are_labels() -> None:
    model = Network()
    online, offline = (
        FixMatch(
            FixMatchConfig(tau=0.4, offline_labels=labels),
            num_classes=K,
            feature_dim=D,
            num_unlabeled=N,
            normalize="l2",
        )
        for labels in (False, True)
    )
    batch = batch_for(offline)
    assert batch.unlabeled_strong is not None
    assert torch.equal(offline.loss(model, batch).loss, online.loss(model, batch).loss)
    offline.adopt(versions())
    assert offline.labels_version == 1
    output = offline.loss(model, batch)
    expected = pseudo_label_loss(model(batch.unlabeled_strong)[1], offline.label[:B])
    torch.testing.assert_close(output.parts["u_logits"], expected.detach())
    assert output.online_labels_B is not None  # what the head predicts is recorded all the same
    assert torch.equal(output.online_labels_B, online.loss(model, batch).online_labels_B)  # type: ignore[arg-type]
    assert online.state_dict() == {}
