"""The loop that repositories of the field use, written plainly: what `benchmarks/field_loop.py` compares aplt with.

    python benchmarks/field_baseline.py SETTINGS.json RESULT.json

A DataLoader decodes every clip anew whenever it is shown, at full resolution, and transforms it with torchvision;
FixMatch, the labelling at phase boundaries and the evaluation run one after the other in the training process. Network,
losses, thresholds, prototypes, batch sizes and number of steps are aplt's, so that only the way of working differs.

Letters: B batch, T frames, N unlabelled clips, M labelled clips, K classes, D features.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from aplt.common.models import build_model
from aplt.labeler.prototypes import build_prototypes
from aplt.labeler.thresholds import self_adaptive_thresholds
from aplt.trainer.losses import cosine_lr, cross_entropy, margin_loss, pseudo_label_loss, pseudo_labels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Mode = Literal["weak", "strong", "both", "test"]


class Clips(Dataset[dict[str, Any]]):
    """Clips as views [T, 3, H, W], decoded from their files each time."""

    def __init__(self, paths: list[str], labels: list[int], mode: Mode, settings: dict[str, Any]) -> None:
        self.paths, self.labels, self.mode = paths, labels, mode
        self.num_frames = settings["num_frames"]
        crop = settings["crop_size"]
        normalize = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        # Every operation draws once for the whole tensor: a clip's frames are changed alike.
        spatial = [v2.RandomResizedCrop(crop, scale=(0.44, 1.0), ratio=(1.0, 1.0)), v2.RandomHorizontalFlip()]
        self.resize = v2.Resize(settings["clip_size"])
        self.views = {
            "test": v2.Compose([v2.CenterCrop(crop), *normalize]),
            "weak": v2.Compose([*spatial, *normalize]),
            "strong": v2.Compose(
                [*spatial, v2.RandAugment(2), *normalize, v2.RandomErasing(p=1, scale=(0.01, 0.25), ratio=(1.0, 1.0))]
            ),
        }

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import decord  # after torch: it brings a BLAS of its own, with which torch crashes

        began = time.process_time()
        # One thread per reader, as usual where there are as many workers as cores; more cost more and gain nothing.
        reader = decord.VideoReader(self.paths[index], num_threads=1)
        part = len(reader) / self.num_frames
        offset = 0.5 if self.mode == "test" else np.random.rand(self.num_frames)
        frames = ((np.arange(self.num_frames) + offset) * part).astype(int)
        clip = torch.from_numpy(reader.get_batch(frames).asnumpy()).permute(0, 3, 1, 2)
        decoded = time.process_time()
        clip = self.resize(clip)
        views = {name: self.views[name](clip) for name in (("weak", "strong") if self.mode == "both" else (self.mode,))}
        cpu = {"decode": decoded - began, "transform": time.process_time() - decoded}
        return {"index": index, "label": self.labels[index], "cpu": cpu, **views}


class Costs:
    """Seconds of CPU by what they were spent on, and wall-clock seconds spent waiting for the workers."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, what: str, seconds: float) -> None:
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    def batches(self, loader: DataLoader[dict[str, Any]]) -> Any:
        batches = iter(loader)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.add("wait for data (wall)", time.perf_counter() - began)
            if batch is None:
                return
            for what, seconds in batch["cpu"].items():
                self.add(what, float(seconds.sum()))
            yield batch


def main() -> None:
    """Train, label and evaluate; write accuracies, costs and the seconds of each epoch."""
    settings: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    torch.manual_seed(settings["seed"])
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    num_classes, batch_size = len(settings["classes"]), settings["batch_size"]
    labeled, unlabeled, test = settings["labeled"], settings["unlabeled"], settings["test"]
    steps = -(-len(unlabeled["paths"]) // batch_size)
    costs = Costs()

    def loader(clips: dict[str, Any], mode: Mode, *, steps: int | None = None) -> DataLoader[dict[str, Any]]:
        dataset = Clips(clips["paths"], clips["labels"], mode, settings)
        sampler = None if steps is None else RandomSampler(dataset, num_samples=steps * batch_size)
        workers = settings["workers"]
        return DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)

    model = build_model(settings["model"], num_classes=num_classes, seed=settings["seed"])
    optimizer = torch.optim.SGD(model.parameters(), lr=settings["lr"], momentum=0.9, weight_decay=5e-4)
    labeled_loader = loader(labeled, "weak", steps=steps)
    unlabeled_loader = loader(unlabeled, "both", steps=steps)
    test_loader = loader(test, "test")
    plain_loaders = [loader(labeled, "test"), loader(unlabeled, "test"), loader(labeled, "strong")]

    prototypes_KD: Tensor | None = None
    offline_N = torch.full((len(unlabeled["paths"]),), -1)
    epoch_seconds: list[float] = []
    scores: dict[str, float] = {}
    for epoch in range(1, settings["total_epochs"] + 1):
        began = time.perf_counter()
        model.train()
        pairs = zip(costs.batches(labeled_loader), costs.batches(unlabeled_loader), strict=True)
        for step, (x, u) in enumerate(pairs):
            cpu = time.process_time()
            done = (epoch - 1) * steps + step
            for group in optimizer.param_groups:
                group["lr"] = cosine_lr(done, settings["total_epochs"] * steps, settings["lr"])
            views = [x["weak"], u["weak"], u["strong"], *([] if prototypes_KD is None else [x["strong"]])]
            features, logits = (part.split(batch_size) for part in model(torch.cat(views)))
            loss = cross_entropy(logits[0], x["label"])
            loss = loss + pseudo_label_loss(logits[2], pseudo_labels(logits[1], tau=0.95))
            if prototypes_KD is not None:
                target_B = offline_N[u["index"]]
                loss = loss + margin_loss(F.normalize(features[3]), prototypes_KD, x["label"], temperature=0.1)
                loss = loss + margin_loss(
                    F.normalize(features[2]), prototypes_KD, target_B, keep_B=target_B >= 0, temperature=0.1
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            costs.add("model", time.process_time() - cpu)
        if epoch in settings["boundaries"]:
            if prototypes_KD is None:
                labeled_loader = loader(labeled, "both", steps=steps)
            prototypes_KD, offline_N = label(model, plain_loaders, labeled["labels"], num_classes, costs)
        scores = evaluate(model, test_loader, prototypes_KD, costs)
        epoch_seconds.append(time.perf_counter() - began)
        print(f"epoch {epoch}: {epoch_seconds[-1]:.1f} s, {scores}", file=sys.stderr, flush=True)
    result = {"scores": scores, "costs": costs.seconds, "epoch_seconds": epoch_seconds}
    Path(sys.argv[2]).write_text(json.dumps(result))


@torch.no_grad()
def extract(
    model: nn.Module, loader: DataLoader[dict[str, Any]], costs: Costs, *, view: Mode = "test"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features [N, D], logits [N, K] and labels [N] of all clips of a loader."""
    model.eval()
    parts = []
    for batch in costs.batches(loader):
        cpu = time.process_time()
        parts.append((*model(batch[view]), batch["label"]))
        costs.add("model", time.process_time() - cpu)
    features_ND, logits_NK, labels_N = (torch.cat(part) for part in zip(*parts, strict=True))
    return F.normalize(features_ND), logits_NK, labels_N


def label(
    model: nn.Module, loaders: list[DataLoader[dict[str, Any]]], labels: list[int], num_classes: int, costs: Costs
) -> tuple[Tensor, Tensor]:
    """Return prototypes [K, D] and the label of each unlabelled clip, -1 where it was screened out."""
    labeled_MD, _, labels_M = extract(model, loaders[0], costs)
    unlabeled_ND, _, _ = extract(model, loaders[1], costs)
    augmented_MD, _, _ = extract(model, loaders[2], costs, view="strong")
    cpu = time.process_time()
    anchors_MD, anchor_labels_M = torch.cat([labeled_MD, augmented_MD]), labels_M.repeat(2)
    centres_KD = torch.stack([anchors_MD[anchor_labels_M == c].mean(0) for c in range(num_classes)])
    for _ in range(100):
        assigned_N = ((unlabeled_ND[:, None] - centres_KD[None]) ** 2).sum(-1).argmin(1)
        everything, classes = torch.cat([anchors_MD, unlabeled_ND]), torch.cat([anchor_labels_M, assigned_N])
        before, centres_KD = centres_KD, torch.stack([everything[classes == c].mean(0) for c in range(num_classes)])
        if float((centres_KD - before).norm(dim=1).sum() ** 2) < 1e-4:
            break
    distances_N = (unlabeled_ND - centres_KD[assigned_N]).norm(dim=1)
    kept_N = self_adaptive_thresholds(distances_N, assigned_N, num_classes=num_classes).keep(distances_N, assigned_N)
    prototypes = build_prototypes(
        torch.cat([labeled_MD, unlabeled_ND]),
        torch.cat([labels_M, assigned_N]),
        num_classes=num_classes,
        keep_N=torch.cat([torch.ones(len(labels), dtype=torch.bool), kept_N]),
    )
    costs.add("clustering", time.process_time() - cpu)
    return F.normalize(prototypes.vectors_KD), assigned_N.where(kept_N, -1)


def evaluate(
    model: nn.Module, loader: DataLoader[dict[str, Any]], prototypes_KD: Tensor | None, costs: Costs
) -> dict[str, float]:
    """Return the accuracy of the head and, once there are prototypes, of those."""
    features_TD, logits_TK, labels_T = extract(model, loader, costs)
    scores = {"head": float((logits_TK.argmax(1) == labels_T).float().mean())}
    if prototypes_KD is not None:
        scores["prototypes"] = float(((features_TD @ prototypes_KD.T).argmax(1) == labels_T).float().mean())
    return scores


if __name__ == "__main__":
    main()
