"""A finished or running run as a classifier: its checkpoint, its prototypes, and what they say about clips.

Letters: B batch, F stored frames, S side, T test clips, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aplt.common.config import BaseRunConfig, Head
from aplt.common.data.decode import decode_files
from aplt.common.data.prepared import PreparedData, load_truth
from aplt.common.device import pick_device, use_threads
from aplt.common.errors import RunError
from aplt.common.features import forward_rows, normalized
from aplt.common.models import VideoClassifier, build_model
from aplt.common.store import ArtifactStore
from aplt.common.views import Augmentation, ViewReader
from aplt.deploy.config import RunConfig
from aplt.deploy.runs import class_names
from aplt.labeler.evaluation import accuracy_scalars, prototype_predictions
from aplt.trainer.config import APLTConfig


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network with the weights of one checkpoint and, for a method with label versions, the prototypes."""

    config: RunConfig
    names: list[str]
    epoch: int
    labels_version: int | None
    model: VideoClassifier
    prototypes_KD: NDArray[np.float32] | None
    device: torch.device

    @property
    def decided_by(self) -> str:
        """What decides about a clip, in words."""
        return f"prototypes of labels v{self.labels_version}" if self.head == "prototypes" else "parametric head"

    @property
    def head(self) -> Head:
        """What decides about a clip: what the method is tested with, if it is there yet."""
        return "head" if self.prototypes_KD is None else self.config.method.tested_head

    @torch.inference_mode()
    def probabilities(self, clips_BFSSC: NDArray[np.uint8]) -> tuple[Tensor, Tensor | None]:
        """Return probabilities [B, K], and distances to the prototypes [B, K] if these decide."""
        augmentation = Augmentation.of(self.config.data, seed=self.config.seed)
        clips = torch.from_numpy(clips_BFSSC).to(self.device)
        features_BD, logits_BK = self.model(augmentation.test(clips))
        if self.prototypes_KD is None or self.head == "head":
            return logits_BK.float().softmax(dim=1).cpu(), None
        features_BD = normalized(features_BD.float(), self.config.features.normalize).cpu()
        prototypes_KD = torch.from_numpy(self.prototypes_KD)
        method = self.config.method
        temperature = method.temperature if isinstance(method, APLTConfig) else 1.0
        return (features_BD @ prototypes_KD.T / temperature).softmax(dim=1), torch.cdist(features_BD, prototypes_KD)


def load_classifier(store: ArtifactStore, config: RunConfig, *, epoch: int | None = None) -> Classifier:
    """Return the classifier of the checkpoint after `epoch`, of the newest one if that is None.

    Raises:
        RunError: there is no such checkpoint.
    """
    there = store.checkpoints.versions()
    if not there:
        raise RunError(f"run {store.run} has no checkpoint yet; it publishes one after its first epoch")
    if epoch is not None and epoch not in there:
        raise RunError(
            f"run {store.run} has no checkpoint of epoch {epoch}; there are {', '.join(map(str, there))} "
            "(trainer.keep_checkpoints: all keeps every one)"
        )
    epoch = there[-1] if epoch is None else epoch
    version = _labels_for(store, config, epoch)
    use_threads(config.labeler.threads)
    device = pick_device(config.labeler.device)
    names = class_names(store, config)
    model = build_model(
        config.model.name,
        num_classes=len(names),
        seed=config.seed,
        cosine_head=config.method.cosine_head,
    )
    weights = store.checkpoints.load(epoch).weights
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    return Classifier(
        config=config,
        names=names,
        epoch=epoch,
        labels_version=version,
        model=model.to(device).eval(),
        prototypes_KD=None if version is None else store.labels.load(version).prototypes_KD,
        device=device,
    )


def evaluate_split(classifier: Classifier, *, split: str) -> dict[str, float]:
    """Return the accuracies of both heads on the `test` clips or on the `unlabeled` training clips."""
    config: BaseRunConfig = classifier.config
    data = PreparedData.open(config.data.folder, config.data.split_name)
    rows_T = data.test_rows_T if split == "test" else data.unlabeled_rows_N
    if not len(rows_T):
        raise RunError(f"run {config.run} has no {split} clips; see data.test in its configuration")
    reader = ViewReader(
        data=data, augmentation=Augmentation.of(config.data, seed=config.seed), device=classifier.device
    )
    features_TD, logits_TK = forward_rows(classifier.model, rows_T, reader.test, batch_size=config.labeler.batch_size)
    predictions = {"head": logits_TK.argmax(axis=1).astype(np.int16)}
    if classifier.prototypes_KD is not None:
        predictions["prototypes"] = prototype_predictions(
            features_TD, classifier.prototypes_KD, normalize=config.features.normalize
        )
    truth_T = load_truth(config.data.folder)[rows_T]
    scalars = {"clips": float(len(rows_T)), "known": float((truth_T >= 0).sum())}
    for name, predictions_T in predictions.items():
        scalars |= accuracy_scalars(predictions_T, truth_T, num_classes=len(classifier.names), prefix=name)
    return scalars


def predict_files(classifier: Classifier, paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield for each file its label, probability, top 3 and distance from the prototype, or the `error` it has."""
    data = classifier.config.data
    paths = list(paths)
    decoded = decode_files(
        paths,
        num_segments=data.num_frames,
        frames_per_segment=data.frames_per_segment,
        size=data.clip_size,
        fit=data.fit,
        workers=data.workers,
        timeout_s=data.timeout_s,
    )
    while batch := list(islice(decoded, classifier.config.labeler.batch_size)):
        good = [(path, frames) for path, frames in batch if not isinstance(frames, str)]
        answers = iter(_answers(classifier, np.stack([frames for _, frames in good])) if good else [])
        for path, frames in batch:
            yield {"path": str(path)} | ({"error": frames} if isinstance(frames, str) else next(answers))


def _answers(classifier: Classifier, clips_BFSSC: NDArray[np.uint8]) -> list[dict[str, Any]]:
    probabilities_BK, distances_BK = classifier.probabilities(clips_BFSSC)
    top = probabilities_BK.topk(min(3, len(classifier.names)), dim=1)
    answers = []
    for b, (shares, classes) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True)):
        distance = None if distances_BK is None else float(distances_BK[b, classes[0]])
        answers.append(
            {
                "label": classifier.names[classes[0]],
                "probability": shares[0],
                "distance": distance,
                "top": [
                    {"label": classifier.names[c], "probability": share}
                    for c, share in zip(classes, shares, strict=True)
                ],
            }
        )
    return answers


def _labels_for(store: ArtifactStore, config: RunConfig, epoch: int) -> int | None:
    """Return the newest label version that is there and was not made from a later checkpoint."""
    planned = config.plan().prototypes_for(epoch)
    return max((v for v in store.labels.versions() if planned is not None and v <= planned), default=None)
