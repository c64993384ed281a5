"""The labeler: waits for checkpoints, turns them into label versions, and evaluates them.

Labels come first, because a trainer may wait for them; evaluations fill the time in between. What is to be done
follows from the schedule and the store alone, so a restarted labeler goes on where the last one stopped.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from aplt.common.artifacts import ArtifactRef, Checkpoint, Evaluation, FeatureSnapshot, LabelVersion
from aplt.common.config import BaseRunConfig
from aplt.common.data.prepared import PreparedData, load_truth
from aplt.common.device import pick_device, use_threads
from aplt.common.errors import DataError, MissingArtifactError, VersionExistsError
from aplt.common.features import forward_rows, snapshot_of, training_rows
from aplt.common.manifest import Provenance
from aplt.common.models import VideoClassifier, build_model
from aplt.common.records import MetricLog, Stopwatch
from aplt.common.retention import prune
from aplt.common.schedule import Phase, Schedule
from aplt.common.series import Series
from aplt.common.service import RoleClaim, describe_role, progress_of
from aplt.common.store import ArtifactStore
from aplt.common.views import Augmentation, ViewReader
from aplt.labeler.evaluation import accuracy_scalars, label_quality, online_quality, prototype_predictions
from aplt.labeler.pipeline import label_summary, labels_of_head, make_labels

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Labeler:
    """What the functions below work with."""

    config: BaseRunConfig
    plan: Schedule
    store: ArtifactStore
    data: PreparedData
    claim: RoleClaim
    provenance: Provenance
    log: MetricLog
    reader: ViewReader
    model: VideoClassifier
    clock: Stopwatch = field(default_factory=Stopwatch)
    done: set[tuple[str, int]] = field(default_factory=set)
    """Labels and evaluations that were seen in the store: not to be asked for again, however many they get."""

    @classmethod
    def of(
        cls,
        *,
        config: BaseRunConfig,
        store: ArtifactStore,
        data: PreparedData,
        claim: RoleClaim,
        provenance: Provenance,
        log: MetricLog,
    ) -> Labeler:
        """Return a labeler with a network of the right shape; its weights come from each checkpoint."""
        use_threads(config.labeler.threads)
        device = pick_device(config.labeler.device)
        model = build_model(
            config.model.name,
            num_classes=len(data.class_names),
            seed=config.seed,
            cosine_head=config.method.cosine_head,
        ).to(device)
        if config.trainer.channels_last:
            model.channels_last()
        return cls(
            config=config,
            plan=config.plan(),
            store=store,
            data=data,
            claim=claim,
            provenance=provenance,
            log=log,
            reader=ViewReader(data=data, augmentation=Augmentation.of(config.data, seed=config.seed), device=device),
            model=model,
        )


def label_run(labeler: Labeler) -> None:
    """Label and evaluate until the schedule's last checkpoint is done."""
    while True:
        phase, epoch = next_phase(labeler), next_evaluation(labeler)
        if phase is not None:
            publish_labels(labeler, phase)
        elif epoch is not None:
            publish_evaluation(labeler, epoch)
        elif finished(labeler):
            prune(labeler.store, labeler.config)  # what the trainer, if it ended before, still had to keep
            return
        else:
            wait_for_work(labeler)
        labeler.claim.record_spans(labeler.clock.take_spans())


def finished(labeler: Labeler) -> bool:
    """Whether every label version and the last evaluation are published."""
    return is_done(labeler, labeler.store.evaluations, labeler.plan.total_epochs) and unlabeled_phase(labeler) is None


def is_done(labeler: Labeler, series: Series[Any], version: int) -> bool:
    """Whether this version of labels or evaluations is published."""
    if (series.name, version) not in labeler.done and series.exists(version):
        labeler.done.add((series.name, version))
    return (series.name, version) in labeler.done


def unlabeled_phase(labeler: Labeler) -> Phase | None:
    """Return the first phase without labels."""
    labels = labeler.store.labels
    return next((phase for phase in labeler.plan.phases if not is_done(labeler, labels, phase.version)), None)


def next_phase(labeler: Labeler) -> Phase | None:
    """Return the phase whose labels can be made now."""
    phase = unlabeled_phase(labeler)
    if phase is None or not labeler.store.checkpoints.exists(phase.snapshot_epoch):
        return None
    features_ready = labeler.config.features.source == "labeler" or labeler.store.features.exists(phase.version)
    return phase if features_ready else None


def next_evaluation(labeler: Labeler) -> int | None:
    """Return the oldest checkpoint whose evaluation is due and possible now."""
    store, every = labeler.store, labeler.config.labeler.evaluate_every
    for epoch in store.checkpoints.candidates():
        if not labeler.plan.evaluates(epoch, every) or is_done(labeler, store.evaluations, epoch):
            continue
        version = labeler.plan.prototypes_for(epoch)
        if (version is None or is_done(labeler, store.labels, version)) and store.checkpoints.exists(epoch):
            return epoch
    return None


def wait_for_work(labeler: Labeler) -> None:
    """Wait for the features of the next phase if its checkpoint is there, else for the next or a lost checkpoint."""
    phase, newest = unlabeled_phase(labeler), labeler.store.checkpoints.latest()
    wanted = 1 if newest is None else newest.version + 1
    if phase is not None and labeler.store.checkpoints.exists(phase.snapshot_epoch):
        labeler.claim.waiting(f"for the features of labels v{phase.version}")
        series: Series[Any] = labeler.store.features
        wanted = phase.version
    else:
        wanted = wanted if phase is None else min(wanted, phase.snapshot_epoch)
        labeler.claim.waiting(f"for the checkpoint after epoch {wanted}")
        series = labeler.store.checkpoints
    with labeler.clock.measure("wait"):
        series.wait(
            wanted,
            timeout_s=labeler.config.labeler.wait_timeout_s,
            on_poll=labeler.claim.check,
            progress=lambda: progress_of(labeler.store, "trainer"),
            describe=lambda: (
                f"{describe_role(labeler.store, 'trainer')}. This run can be resumed; labeler.wait_timeout_s sets how "
                "long to wait without a sign of progress"
            ),
        )


def publish_labels(labeler: Labeler, phase: Phase) -> None:
    """Make and publish the label version of `phase`."""
    config, store, data = labeler.config, labeler.store, labeler.data
    labeler.claim.working(f"labels v{phase.version}", share_done(labeler, phase.snapshot_epoch))
    with labeler.clock.measure("extract"):
        load_weights(labeler, store.checkpoints.load(phase.snapshot_epoch))
        snapshot, parents = feature_snapshot(labeler, phase)
        augmented_AD = labeled_augmentation(labeler, phase)
    labeler.claim.tick()
    with labeler.clock.measure("cluster"):
        num_labeled = len(data.labels_M)  # they come first
        features_ND = torch.from_numpy(snapshot.features_ND).to(labeler.reader.device)
        labels_M = torch.from_numpy(data.labels_M.astype(np.int64)).to(labeler.reader.device)
        given: dict[str, Any] = {
            "version": phase.version,
            "epoch": phase.snapshot_epoch,
            "rows_N": snapshot.rows_N[num_labeled:],
            "unlabeled_ND": features_ND[num_labeled:],
            "labeled_MD": features_ND[:num_labeled],
            "labels_M": labels_M,
            "num_classes": len(data.class_names),
            "normalize": config.features.normalize,
            "filtered_prototypes": config.labeler.filtered_prototypes,
        }
        if config.labeler.strategy == "parametric":
            labels = labels_of_head(
                logits_NK=head_logits(labeler, features_ND[num_labeled:]),
                tau=config.method.tau_offline if config.labeler.threshold == "adaptive" else 0.0,
                **given,
            )
        else:
            labels = make_labels(
                augmented_AD=augmented_AD,
                augmented_labels_A=None if augmented_AD is None else labels_M,
                strategy=config.labeler.strategy,
                max_iterations=config.labeler.max_iterations,
                tolerance=config.labeler.tolerance,
                threshold=config.labeler.threshold,
                sat_scale=config.labeler.sat_scale,
                sat_min_count=config.labeler.sat_min_count,
                sat_squared=config.labeler.sat_squared,
                augmented_prototypes=config.labeler.augmented_prototypes,
                **given,
            )
    seconds = labeler.clock.seconds()
    summary = label_summary(labels) | {"spans": labeler.clock.spans()}
    try:
        store.labels.publish(
            labels, version=phase.version, parents=parents, summary=summary, provenance=labeler.provenance.now()
        )
    except VersionExistsError:
        logger.info("labels v%d are there already", phase.version)
    logger.info(
        "labels v%d: r %.3f, kept %d of %d", phase.version, labels.ratio, labels.kept_N.sum(), len(labels.kept_N)
    )
    log_labels(labeler, labels, seconds)


def feature_snapshot(labeler: Labeler, phase: Phase) -> tuple[FeatureSnapshot, list[ArtifactRef]]:
    """Return the features to cluster and what they were made from; makes and publishes them if that is our part."""
    store, data = labeler.store, labeler.data
    checkpoint = store.checkpoints.ref(phase.snapshot_epoch)
    if not store.features.exists(phase.version):
        features_ND, _ = forward_rows(
            labeler.model,
            training_rows(data),
            labeler.reader.test,
            batch_size=labeler.config.labeler.batch_size,
            tick=labeler.claim.tick,
        )
        with suppress(VersionExistsError):  # a labeler that was taken for dead was quicker
            store.features.publish(
                snapshot_of(data, phase.snapshot_epoch, features_ND),
                version=phase.version,
                parents=[checkpoint],
                summary={"source": "labeler"},
                provenance=labeler.provenance.now(),
            )
    snapshot = store.features.load(phase.version)
    expected = training_rows(data)
    if not np.array_equal(snapshot.rows_N, expected):
        raise DataError(
            f"features v{phase.version} are of other clips than this labeler's ({len(snapshot.rows_N)} against "
            f"{len(expected)}). Trainer and labeler must read the same prepared data"
        )
    return snapshot, [checkpoint, store.features.ref(phase.version)]


@torch.no_grad()
def head_logits(labeler: Labeler, features_ND: torch.Tensor) -> torch.Tensor:
    """Return the logits [N, K] that the checkpoint's parametric head has for the features of the snapshot."""
    logits_NK: torch.Tensor = labeler.model.head(features_ND)
    return logits_NK


def labeled_augmentation(labeler: Labeler, phase: Phase) -> torch.Tensor | None:
    """Return the features of one strongly augmented view of every labelled clip."""
    settings = labeler.config.labeler
    if not settings.labeled_augmentation or settings.strategy == "parametric":
        return None
    features_AD, _ = forward_rows(
        labeler.model,
        labeler.data.labeled_rows_M,
        lambda rows_B: labeler.reader.labeled_augmentation(rows_B, epoch=phase.snapshot_epoch),
        batch_size=labeler.config.labeler.batch_size,
        tick=labeler.claim.tick,
    )
    return torch.from_numpy(features_AD).to(labeler.reader.device)


def publish_evaluation(labeler: Labeler, epoch: int) -> None:
    """Evaluate checkpoint `epoch` with both heads, and the labels that were made from it."""
    config, store, data = labeler.config, labeler.store, labeler.data
    labeler.claim.working(f"evaluation of epoch {epoch}", share_done(labeler, epoch))
    with labeler.clock.measure("evaluate"):
        try:
            checkpoint_ref = store.checkpoints.ref(epoch)
            checkpoint = store.checkpoints.load(checkpoint_ref)
        except MissingArtifactError:  # evaluated by a labeler that was taken for dead, then removed by the trainer
            logger.info("the checkpoint of epoch %d is gone before its evaluation", epoch)
            return
        load_weights(labeler, checkpoint)
        features_TD, logits_TK = forward_rows(
            labeler.model,
            data.test_rows_T,
            labeler.reader.test,
            batch_size=config.labeler.batch_size,
            tick=labeler.claim.tick,
        )
        predictions = {"head": logits_TK.argmax(axis=1).astype(np.int16)} if len(data.test_rows_T) else {}
        version = labeler.plan.prototypes_for(epoch)
        parents = [checkpoint_ref]
        labels = None
        if version is not None:
            parents.append(store.labels.ref(version))
            labels = store.labels.load(version)
            if len(data.test_rows_T):
                predictions |= predict_with_prototypes(labeler, features_TD, labels, final=epoch)
        evaluation = Evaluation(
            epoch=epoch,
            scalars=judge(labeler, checkpoint, predictions, labels),
            arrays={"rows": data.test_rows_T, **predictions},
        )
    seconds = labeler.clock.seconds()
    try:
        store.evaluations.publish(
            evaluation,
            version=epoch,
            parents=parents,
            summary={**evaluation.scalars, "labels_version": version, "spans": labeler.clock.spans()},
            provenance=labeler.provenance.now(),
        )
    except VersionExistsError:
        logger.info("the evaluation of epoch %d is there already", epoch)
    labeler.log.write("evaluation", epoch, **evaluation.scalars, **seconds)


def predict_with_prototypes(
    labeler: Labeler,
    features_TD: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    labels: LabelVersion,
    *,
    final: int,
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int16]]]:
    """Return the predictions by the newest prototypes, and for the final network also by those before them."""
    normalize = labeler.config.features.normalize
    predictions = {"prototypes": prototype_predictions(features_TD, labels.prototypes_KD, normalize=normalize)}
    if final == labeler.plan.total_epochs and labels.version > 1:
        older = labeler.store.labels.load(labels.version - 1)
        predictions["prototypes_before"] = prototype_predictions(features_TD, older.prototypes_KD, normalize=normalize)
    return predictions


def judge(
    labeler: Labeler,
    checkpoint: Checkpoint,
    predictions: dict[str, np.ndarray[tuple[int], np.dtype[np.int16]]],
    labels: LabelVersion | None,
) -> dict[str, float]:
    """Return every number that needs ground truth. Called when what it judges is published, never before."""
    data, num_classes = labeler.data, len(labeler.data.class_names)
    truth = load_truth(labeler.config.data.folder)
    scalars: dict[str, float] = {}
    for name, predictions_T in predictions.items():
        scalars |= accuracy_scalars(predictions_T, truth[data.test_rows_T], num_classes=num_classes, prefix=name)
    if labels is not None and labels.epoch == checkpoint.epoch:
        scalars |= label_quality(labels, truth, num_classes=num_classes)
    if checkpoint.online_labels_N is not None:
        scalars |= online_quality(checkpoint.online_labels_N, data.unlabeled_rows_N, truth)
    return scalars


def load_weights(labeler: Labeler, checkpoint: Checkpoint) -> None:
    """Give the network the weights of `checkpoint`."""
    labeler.model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in checkpoint.weights.items()})


def share_done(labeler: Labeler, epoch: int) -> float:
    """Return how much of the run is behind once `epoch` is dealt with."""
    return epoch / labeler.plan.total_epochs


def log_labels(labeler: Labeler, labels: LabelVersion, seconds: dict[str, float]) -> None:
    """Record ratio, thresholds, kept share and support, overall and per class."""
    values = {"ratio": labels.ratio, "global_threshold": labels.global_threshold, **seconds}
    values["kept_share"] = float(labels.kept_N.mean()) if len(labels.kept_N) else 0.0
    for c, support in enumerate(labels.support_K):
        of_class = labels.labels_N == c
        values |= {
            f"class_{c}/kept_share": float(labels.kept_N[of_class].mean()) if of_class.any() else 0.0,
            f"class_{c}/local_threshold": float(labels.local_K[c]),
            f"class_{c}/adaptive_threshold": float(labels.adaptive_K[c]),
            f"class_{c}/support": float(support),
        }
    labeler.log.write("labels", labels.epoch, version=float(labels.version), **values)
