"""Every number of tests/golden/methods.json; see PROVENANCE.md beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aplt.common.augment import temporal_gradient
from aplt.labeler.clustering import kmeans, semi_supervised_kmeans
from aplt.labeler.prototypes import build_prototypes
from aplt.labeler.thresholds import self_adaptive_thresholds
from aplt.trainer.config import FlexMatchConfig, FreeMatchConfig, SoftMatchConfig
from aplt.trainer.losses import cosine_lr, cross_entropy, margin_loss, pseudo_label_loss, pseudo_labels, ramp_up
from aplt.trainer.methods import (
    finessl,
    flexmatch,
    freematch,
    infomatch,
    ltg,
    mean_teacher,
    mixmatch,
    softmatch,
    svformer,
    tcl,
    uda,
    vat,
)

CASES = json.loads((Path(__file__).parents[1] / "golden" / "methods.json").read_text())


def offline(labeled: list[Any], labels: list[int], unlabeled: list[Any]) -> dict[str, Any]:
    labeled_MD, labels_M, unlabeled_ND = torch.tensor(labeled), torch.tensor(labels), torch.tensor(unlabeled)
    found = semi_supervised_kmeans(unlabeled_ND, labeled_MD, labels_M, num_classes=2)
    assert found.converged
    thresholds = self_adaptive_thresholds(found.distances_N, found.assignments_N, num_classes=2)
    keep_N = thresholds.keep(found.distances_N, found.assignments_N)
    both_ND, classes_N = torch.cat([labeled_MD, unlabeled_ND]), torch.cat([labels_M, found.assignments_N])
    used_N = torch.cat([torch.ones_like(labels_M, dtype=torch.bool), keep_N])
    return {
        "centroids": found.centroids_KD,
        "assignments": found.assignments_N,
        "global_threshold": thresholds.global_threshold,
        "local": thresholds.local_K,
        "adaptive": thresholds.adaptive_K,
        "keep": keep_N,
        "prototypes": build_prototypes(both_ND, classes_N, num_classes=2, keep_N=used_N).vectors_KD,
        "prototypes_of_all": build_prototypes(both_ND, classes_N, num_classes=2).vectors_KD,
    }


def plain(labeled: list[Any], labels: list[int], unlabeled: list[Any]) -> dict[str, Any]:
    labeled_MD = torch.tensor(labeled)
    start_KD = build_prototypes(labeled_MD, torch.tensor(labels), num_classes=2).vectors_KD
    found = kmeans(torch.cat([labeled_MD, torch.tensor(unlabeled)]), start_KD)
    return {"centroids": found.centroids_KD, "assignments": found.assignments_N[len(labeled) :]}


def thresholds(distances: list[float], assignments: list[int], num_classes: int) -> dict[str, Any]:
    distances_N, assignments_N = torch.tensor(distances), torch.tensor(assignments)
    found = self_adaptive_thresholds(distances_N, assignments_N, num_classes=num_classes)
    return {
        "global_threshold": found.global_threshold,
        "local": found.local_K,
        "adaptive": found.adaptive_K,
        "keep": found.keep(distances_N, assignments_N),
        "ratio": found.ratio,
    }


def supervised(logits: list[Any], labels: list[int]) -> dict[str, Any]:
    return {"loss": cross_entropy(torch.tensor(logits, dtype=torch.float32), torch.tensor(labels))}


def fixmatch(weak: list[Any], strong: list[Any], tau: float) -> dict[str, Any]:
    targets_B = pseudo_labels(torch.tensor(weak), tau=tau)
    return {"pseudo_labels": targets_B, "loss": pseudo_label_loss(torch.tensor(strong), targets_B)}


def pseudo_label(logits: list[Any], tau: float) -> dict[str, Any]:
    logits_BK = torch.tensor(logits)
    targets_B = pseudo_labels(logits_BK, tau=tau)
    return {"pseudo_labels": targets_B, "loss": pseudo_label_loss(logits_BK, targets_B)}


def ramp(length: float, progress: list[float]) -> dict[str, Any]:
    return {"weights": [ramp_up(share, length) for share in progress]}


def uda_loss(weak: list[Any], strong: list[Any], tau: float, temperature: float) -> dict[str, Any]:
    weak_BK = torch.tensor(weak)
    kept_B, targets_BK = pseudo_labels(weak_BK, tau=tau), uda.sharpened(weak_BK, temperature=temperature)
    loss = uda.soft_target_loss(torch.tensor(strong), targets_BK, keep_B=kept_B >= 0)
    return {"pseudo_labels": kept_B, "targets": targets_BK, "loss": loss}


def uda_tsa(progress: float, num_classes: int) -> dict[str, Any]:
    schedules: tuple[uda.Schedule, ...] = ("linear", "exp", "log")
    return {"eta": [uda.annealed_threshold(progress, name, num_classes=num_classes) for name in schedules]}


def with_state(method: Any, state: dict[str, Any] | None) -> Any:
    for name, value in (state or {}).items():
        getattr(method, name).copy_(torch.tensor(value))
    return method


def flexmatch_step(selected: list[int], probabilities: list[Any], warm_up: bool) -> dict[str, Any]:
    logits_BK = torch.tensor(probabilities).log()
    config = FlexMatchConfig(threshold_warmup=warm_up)
    method = flexmatch.FlexMatch(config, num_classes=3, feature_dim=1, num_unlabeled=len(selected), normalize="l2")
    method.selected.copy_(torch.tensor(selected))
    nothing_B = torch.full((len(probabilities),), -1)
    method.select(torch.arange(len(probabilities)), nothing_B)
    status_K = method.status.clone()
    thresholds_K = flexmatch.flexible_thresholds(status_K, tau=0.95)
    method.select(torch.arange(len(probabilities)), pseudo_labels(logits_BK, tau=0.95))
    return {
        "status": status_K,
        "thresholds": thresholds_K,
        "keep": pseudo_labels(logits_BK, tau=thresholds_K) >= 0,
        "selected": method.selected,
        "status_after": method.status,
    }


def freematch_steps(
    momentum: float, probabilities: list[Any], steps: int, state: dict[str, Any] | None = None
) -> dict[str, Any]:
    config, weak_BK = FreeMatchConfig(momentum=momentum), torch.tensor(probabilities)
    method = with_state(
        freematch.FreeMatch(config, num_classes=3, feature_dim=1, num_unlabeled=4, normalize="l2"), state
    )
    for _ in range(steps):
        method.observe(weak_BK)
    keep_B = pseudo_labels(weak_BK.log(), tau=method.thresholds()) >= 0
    return {**method.state_dict(), "thresholds": method.thresholds(), "keep": keep_B}


def fairness(strong: list[Any], keep: list[bool], mean: list[float], histogram: list[float]) -> dict[str, Any]:
    state_K = {"mean_K": torch.tensor(mean), "histogram_K": torch.tensor(histogram)}
    return {"loss": freematch.fairness_loss(torch.tensor(strong), torch.tensor(keep), **state_K)}


def softmatch_step(momentum: float, probabilities: list[Any], state: dict[str, Any] | None = None) -> dict[str, Any]:
    config, weak_BK = SoftMatchConfig(momentum=momentum), torch.tensor(probabilities)
    method = with_state(
        softmatch.SoftMatch(config, num_classes=3, feature_dim=1, num_unlabeled=4, normalize="l2"), state
    )
    confidence_B = method.observe(weak_BK)
    weights = softmatch_weights(confidence_B.tolist(), float(method.mu), float(method.variance))
    return {**method.state_dict(), **weights, "confidence": confidence_B}


def softmatch_weights(confidence: list[float], mu: float, variance: float) -> dict[str, Any]:
    state = {"mu": torch.tensor(mu), "variance": torch.tensor(variance)}
    return {"weights": softmatch.gaussian_weights(torch.tensor(confidence), **state, n_sigma=2.0)}


def mean_teacher_loss(student: list[Any], teacher: list[Any]) -> dict[str, Any]:
    return {"loss": mean_teacher.consistency_loss(torch.tensor(student), torch.tensor(teacher))}


def decay(updates: int, limit: float) -> dict[str, Any]:
    return {"decay": mean_teacher.teacher_decay(torch.tensor(updates), limit=limit)}


def average(teacher: float, student: float, decay: float) -> dict[str, Any]:
    networks = [torch.nn.ParameterList([torch.tensor(value)]) for value in (teacher, student)]
    mean_teacher.follow(*networks, decay=torch.tensor(decay))
    return {"teacher": networks[0][0].detach()}


def sharpen(views: list[list[float]], temperature: float) -> dict[str, Any]:
    return {"targets": mixmatch.sharpen(*torch.tensor(views)[:, None], temperature=temperature)[0]}


def mix(own: list[float], other: list[float], share: float) -> dict[str, Any]:
    return {"targets": mixmatch.mix(torch.tensor([own, other]), torch.tensor([1, 0]), torch.tensor([share, share]))[0]}


def finessl_margins(status: list[float], alpha: float) -> dict[str, Any]:
    return {"margins": finessl.class_margins(torch.tensor(status), alpha=alpha)}


def finessl_loss(status: list[float], alpha: float, logits: list[float], target: int) -> dict[str, Any]:
    margins_K, targets_B = finessl.class_margins(torch.tensor(status), alpha=alpha), torch.tensor([target])
    moved_BK = finessl.with_margin(torch.tensor([logits]), targets_B, margins_K)
    return {"logits": moved_BK[0], "loss": cross_entropy(moved_BK, targets_B)}


def finessl_smoothed(logits: list[float], target: int, smoothing: float) -> dict[str, Any]:
    return {"loss": finessl.smoothed_loss(torch.tensor([logits]), torch.tensor([target]), smoothing=smoothing)}


def disagreement(first: list[Any], second: list[Any]) -> dict[str, Any]:
    return {"loss": infomatch.disagreement(torch.tensor(first), torch.tensor(second))}


def cutmix(logits: list[float], own: int, other: int, share: float) -> dict[str, Any]:
    # A second view, of equal logits and without pseudo-labels, holds the partner.
    logits_BK, pseudo_B = torch.tensor([logits, logits]), torch.tensor([own, other])
    order_B, share_B = torch.tensor([1, 1]), torch.tensor([share, 1.0])
    return {"loss": 2 * infomatch.cutmix_loss(logits_BK, pseudo_B, order_B, own_share_B=share_B)}


def box(rows: list[int], columns: list[int], side: int) -> dict[str, Any]:
    inside = torch.zeros(1, 1, 1, side, side, dtype=torch.bool)
    inside[..., slice(*rows), slice(*columns)] = True
    return {"share": infomatch.own_share(inside)[0]}


def vat_terms(target: list[float], perturbed: list[float]) -> dict[str, Any]:
    target_BK, perturbed_BK = torch.tensor([target]), torch.tensor([perturbed])
    return {"divergence": vat.divergence(target_BK, perturbed_BK), "entropy": vat.entropy(target_BK)}


def tcl_losses(fast: list[Any], slow: list[Any], temperature: float) -> dict[str, Any]:
    both_BK = torch.tensor(fast), torch.tensor(slow)
    return {
        "instance": tcl.instance_loss(*both_BK, temperature=temperature),
        "group": tcl.group_loss(*both_BK, temperature=temperature),
    }


def svformer_targets(teacher: list[Any], pseudo: list[int], share: float) -> dict[str, Any]:
    order_B = torch.tensor([1, 0])
    targets_BK, weight_B = svformer.mixed_targets(torch.tensor(teacher), torch.tensor(pseudo), order_B, share=share)
    return {"target": targets_BK[0], "weight": weight_B[0]}


def svformer_mix(logits: list[float], target: list[float], on_logits: bool = False) -> dict[str, Any]:
    logits_BK, target_BK = torch.tensor([logits]), torch.tensor([target])
    return {"loss": svformer.mix_loss(logits_BK, target_BK, torch.ones(1), on_logits=on_logits)}


def cmpl_swap(tau: float, **values: list[float]) -> dict[str, Any]:
    from_primary_B, from_auxiliary_B = (
        pseudo_labels(torch.tensor([values[name]]).log(), tau=tau) for name in ("primary", "auxiliary")
    )
    return {
        "primary": pseudo_label_loss(torch.tensor([values["primary_strong"]]), from_auxiliary_B),
        "auxiliary": pseudo_label_loss(torch.tensor([values["auxiliary_strong"]]), from_primary_B),
    }


def ltg_gradient(pairs: list[list[int]]) -> dict[str, Any]:
    first, following = torch.tensor(pairs, dtype=torch.uint8).T
    return {"gradients": temporal_gradient(first, following)}


def ltg_align(rgb: list[Any], tg: list[Any]) -> dict[str, Any]:
    maps = [[torch.tensor([values])] for values in (rgb, tg)]
    return {"loss": ltg.alignment_loss(*maps, num_clips=1)[0]}


def ltg_contrast(rgb: list[Any], tg: list[Any], temperature: float) -> dict[str, Any]:
    return {"loss": ltg.contrastive_loss(torch.tensor(rgb), torch.tensor(tg), temperature=temperature)}


def margin(
    prototypes: list[Any], features: list[Any], targets: list[int], keep: list[bool] | None = None, **options: Any
) -> dict[str, Any]:
    keep_B = None if keep is None else torch.tensor(keep)
    loss = margin_loss(
        torch.tensor(features), torch.tensor(prototypes), torch.tensor(targets), keep_B=keep_B, **options
    )
    return {"loss": loss}


def margin_floor(num_classes: int, temperature: float) -> dict[str, Any]:
    unit_KD = torch.eye(num_classes)
    return {"loss": margin_loss(unit_KD, unit_KD, torch.arange(num_classes), temperature=temperature)}


def learning_rates(lr0: float, total: float, steps: list[float]) -> dict[str, Any]:
    return {"lr": [cosine_lr(step, total, lr0) for step in steps]}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "offline": offline,
    "kmeans": plain,
    "thresholds": thresholds,
    "cross_entropy": supervised,
    "fixmatch": fixmatch,
    "pseudo_label": pseudo_label,
    "ramp": ramp,
    "uda": uda_loss,
    "uda_tsa": uda_tsa,
    "flexmatch": flexmatch_step,
    "freematch": freematch_steps,
    "fairness": fairness,
    "softmatch": softmatch_step,
    "softmatch_weights": softmatch_weights,
    "mean_teacher": mean_teacher_loss,
    "decay": decay,
    "average": average,
    "sharpen": sharpen,
    "mix": mix,
    "finessl_margins": finessl_margins,
    "finessl": finessl_loss,
    "finessl_smoothed": finessl_smoothed,
    "disagreement": disagreement,
    "cutmix": cutmix,
    "box": box,
    "vat": vat_terms,
    "tcl": tcl_losses,
    "svformer_targets": svformer_targets,
    "svformer_mix": svformer_mix,
    "cmpl": cmpl_swap,
    "ltg_gradient": ltg_gradient,
    "ltg_align": ltg_align,
    "ltg_contrast": ltg_contrast,
    "margin": margin,
    "margin_floor": margin_floor,
    "cosine_lr": learning_rates,
}
EXACT = {"assignments", "gradients", "keep", "pseudo_labels", "selected"}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    case = CASES[name]
    found = KINDS[case["kind"]](**case["input"])
    for key, expected in case["expected"].items():
        got: Tensor = torch.as_tensor(found[key], dtype=torch.float64)
        wanted = torch.tensor(expected, dtype=torch.float64)
        atol, rtol = (0.0, 0.0) if key in EXACT else (case["atol"], case["rtol"])
        torch.testing.assert_close(got, wanted, atol=atol, rtol=rtol, msg=f"{name}, {key}: {got} is not {wanted}")
