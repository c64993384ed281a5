"""Training, from the first epoch to the last. Read this file first.

Letters: B batch, N unlabelled clips, M labelled clips, D features.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from aplt.common.artifacts import ArtifactRef, Checkpoint, FeatureSnapshot
from aplt.common.config import BaseRunConfig
from aplt.common.data.prepared import PreparedData
from aplt.common.device import autocast, use_threads
from aplt.common.errors import ConfigError, VersionExistsError
from aplt.common.features import forward_rows, snapshot_of, training_rows
from aplt.common.manifest import Provenance
from aplt.common.records import MetricLog, Stopwatch
from aplt.common.retention import prune
from aplt.common.schedule import Phase, Schedule
from aplt.common.service import RoleClaim, describe_role, progress_of
from aplt.common.store import ArtifactStore
from aplt.common.views import Augmentation, ViewReader
from aplt.trainer.followers import device_of, followers, threads_of
from aplt.trainer.loader import Loader
from aplt.trainer.losses import cosine_lr
from aplt.trainer.methods import Batch, StepOutput
from aplt.trainer.order import StepOrder
from aplt.trainer.ranks import average_gradients
from aplt.trainer.state import TrainState, init_state, set_lr

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What the functions below work with."""

    config: BaseRunConfig
    plan: Schedule
    store: ArtifactStore
    data: PreparedData
    claim: RoleClaim
    provenance: Provenance
    log: MetricLog
    clock: Stopwatch = field(default_factory=Stopwatch)


def train(trainer: Trainer) -> TrainState:
    """Train to the end of the schedule, from the newest checkpoint if there is one; returns the final state."""
    config, plan = trainer.config, trainer.plan
    use_threads(threads_of(config))
    device = device_of(config, rank=0)
    with followers(config, device, follow) as others:
        state = restore_or_init(trainer, device)
        loader = loader_of(config, trainer.data, state)
        augmentation = Augmentation.of(config.data, seed=config.seed)
        reader = ViewReader(data=trainer.data, augmentation=augmentation, device=device)

        publish_missing_features(trainer, state, reader)
        while state.epoch < plan.total_epochs:
            adopt_labels(trainer, state)
            with others.epoch(state.checkpoint):
                train_epoch(trainer, state, loader)
            publish_checkpoint(trainer, state)
            publish_features(trainer, state, reader)
            prune(trainer.store, config)
            trainer.claim.record_spans(trainer.clock.take_spans())
    return state


def follow(config: BaseRunConfig, device: torch.device, states: Iterator[Checkpoint]) -> None:
    """Train as another rank than the first: one epoch from each of the states, which come from rank 0."""
    use_threads(threads_of(config))
    data = PreparedData.open(config.data.folder, config.data.split_name)
    state = init_state(config, data, device)
    loader = loader_of(config, data, state)
    for before in states:
        state.restore(before)
        for _ in steps(config, state, loader):
            pass


def loader_of(config: BaseRunConfig, data: PreparedData, state: TrainState) -> Loader:
    """Return what makes the batches of a run."""
    return Loader(
        data,
        Augmentation.of(config.data, seed=config.seed),
        state.method,
        seed=config.seed,
        num_epochs=config.plan().total_epochs,
        batch_size=config.trainer.batch_size,
        mu=config.trainer.mu,
        device=state.device,
    )


def restore_or_init(trainer: Trainer, device: torch.device) -> TrainState:
    """Return the state of the checkpoint to go on from, or of epoch 0."""
    state = init_state(trainer.config, trainer.data, device)
    epoch = resumable_epoch(trainer)
    if epoch > 0:
        state.restore(trainer.store.checkpoints.load(epoch))
        logger.info("goes on after epoch %d", epoch)
    return state


def resumable_epoch(trainer: Trainer) -> int:
    """Return the newest checkpoint from which all missing labels can still come, 0 if there is none.

    That is the newest of all, unless somebody removed a checkpoint whose labels were never made: then training goes
    back before it, makes it again, and meets the later ones where it left them.
    """
    store = trainer.store
    there = set(store.checkpoints.versions())
    lost = [
        phase.snapshot_epoch
        for phase in trainer.plan.phases
        if phase.snapshot_epoch not in there and not store.labels.exists(phase.version)
    ]
    return max((epoch for epoch in there if epoch < min(lost, default=epoch + 1)), default=0)


def adopt_labels(trainer: Trainer, state: TrainState) -> None:
    """Make the method use the label version that the schedule wants for the next epoch; wait for it if need be."""
    version = trainer.plan.labels_for(state.epoch + 1)
    if version is None:
        return
    with trainer.clock.measure("wait"):
        if not trainer.store.labels.exists(version):
            trainer.claim.waiting(f"for labels v{version}, to train epoch {state.epoch + 1}")
        trainer.store.labels.wait(
            version,
            timeout_s=trainer.config.trainer.wait_timeout_s,
            on_poll=trainer.claim.check,
            progress=lambda: progress_of(trainer.store, "labeler"),
            describe=lambda: (
                f"{describe_role(trainer.store, 'labeler')}. This run can be resumed; trainer.wait_timeout_s sets how "
                "long to wait without a sign of progress"
            ),
        )
    if state.method.labels_version == version:  # its version may have been damaged, and made again, since
        return
    labels = trainer.store.labels.load(version)
    if not np.array_equal(labels.rows_N, trainer.data.unlabeled_rows_N):
        raise ConfigError(
            f"labels v{version} are for other clips than this trainer's: {len(labels.rows_N)} against "
            f"{len(trainer.data.unlabeled_rows_N)} unlabelled. Trainer and labeler must read the same prepared data"
        )
    state.method.adopt(labels)
    logger.info("uses labels v%d: %.1f %% of the clips kept", version, 100 * labels.kept_N.mean())


def train_epoch(trainer: Trainer, state: TrainState, loader: Loader) -> None:
    """Train one epoch, and keep and record what it computed."""
    epoch = state.epoch + 1
    state.bank.online_N.fill_(-1)
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()  # a part that begins or ends within an epoch is in some of its steps
    with trainer.clock.measure("train"):
        for order, output in steps(trainer.config, state, loader):
            remember(state, order, output)
            for name, value in {"loss": output.loss.detach(), **output.parts}.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value
                counts[name] += 1
            trainer.claim.working(f"epoch {epoch}/{trainer.plan.total_epochs}", order.done / loader.total_steps)
            trainer.claim.tick()
    state.epoch = epoch
    losses = {name: float(value) / counts[name] for name, value in sums.items()}
    if not np.isfinite(losses["loss"]):
        raise ConfigError(
            f"the loss of epoch {epoch} is {losses['loss']}; lower trainer.lr ({trainer.config.trainer.lr}) "
            "and start a new run"
        )
    trainer.log.write("epoch", epoch, **losses, passed_share=passed_share(state), **trainer.clock.seconds())


def steps(config: BaseRunConfig, state: TrainState, loader: Loader) -> Iterator[tuple[StepOrder, StepOutput]]:
    """Take the steps of the next epoch, on all ranks alike, and yield what each computed.

    The network's own randomness, if any, depends on seed and epoch alone.
    """
    epoch = state.epoch + 1
    torch.manual_seed(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0])
    state.model.train()
    state.method.start_epoch()
    for order, batch in loader.epoch(epoch):
        set_lr(state.optimizer, cosine_lr(order.done, loader.total_steps, config.trainer.lr))
        yield order, train_step(config, state, batch)


def train_step(config: BaseRunConfig, state: TrainState, batch: Batch) -> StepOutput:
    """One forward, one backward, one update."""
    with autocast(state.device, config.trainer.precision):
        output = state.method.loss(state.model, batch)
    state.optimizer.zero_grad(set_to_none=True)
    output.loss.backward()  # type: ignore[no-untyped-call]
    average_gradients(state.optimizer.param_groups[0]["params"])
    state.optimizer.step()
    state.method.after_step(state.model)
    return output


def remember(state: TrainState, order: StepOrder, output: StepOutput) -> None:
    """Keep what the step computed anyway: features and online pseudo-labels of its clips."""
    labeled_B = torch.from_numpy(order.labeled_B)
    state.bank.labeled_MD[labeled_B] = output.labeled_features_BD.cpu()
    state.bank.labeled_seen_M[labeled_B] = True
    if output.unlabeled_features_BD is None or output.online_labels_B is None:
        return
    unlabeled_B = torch.from_numpy(order.unlabeled_B)
    state.bank.unlabeled_ND[unlabeled_B] = output.unlabeled_features_BD.cpu()
    state.bank.online_N[unlabeled_B] = output.online_labels_B.to("cpu", torch.int16)


def passed_share(state: TrainState) -> float:
    """Return the share of unlabelled clips whose online pseudo-label passed in the last epoch."""
    return float((state.bank.online_N >= 0).float().mean()) if len(state.bank.online_N) else 0.0


def publish_checkpoint(trainer: Trainer, state: TrainState) -> None:
    """Publish the state after the epoch that has just ended, or take over what somebody published for it before.

    That somebody is a trainer that was taken for dead, or this run before a checkpoint was lost.
    """
    previous = [trainer.store.checkpoints.ref(state.epoch - 1)] if state.epoch > 1 else []
    version = trainer.plan.labels_for(state.epoch)
    labels = [] if version is None else [trainer.store.labels.ref(version)]
    with trainer.clock.measure("publish"):
        try:
            trainer.store.checkpoints.publish(
                state.checkpoint(),
                version=state.epoch,
                parents=[*previous, *labels],
                summary={"passed_share": passed_share(state)},
                provenance=trainer.provenance.now(),
            )
        except VersionExistsError:
            logger.info("the checkpoint after epoch %d is there already; goes on from it", state.epoch)
            state.restore(trainer.store.checkpoints.load(state.epoch))


def publish_missing_features(trainer: Trainer, state: TrainState, reader: ViewReader) -> None:
    """Publish the features that an earlier process did not come to publish, or that were lost, while labels need them.

    `state` is used for it and is in the end what it was.
    """
    epoch = state.epoch
    for phase in trainer.plan.phases:
        if phase.snapshot_epoch <= epoch and needs_features(trainer, phase):
            if phase.snapshot_epoch != state.epoch:
                state.restore(trainer.store.checkpoints.load(phase.snapshot_epoch))
            publish_features(trainer, state, reader)
    if state.epoch != epoch:
        state.restore(trainer.store.checkpoints.load(epoch))


def needs_features(trainer: Trainer, phase: Phase) -> bool:
    """Whether the labels of `phase` wait for features from the trainer."""
    store, version = trainer.store, phase.version
    by_trainer = trainer.config.features.source != "labeler"
    return by_trainer and not store.features.exists(version) and not store.labels.exists(version)


def publish_features(trainer: Trainer, state: TrainState, reader: ViewReader) -> None:
    """Publish the features that the labeler will cluster, if this epoch is one that labels are made from."""
    phase = trainer.plan.snapshot_after(state.epoch)
    if phase is None or not needs_features(trainer, phase):
        return
    source = trainer.config.features.source
    trainer.claim.working(f"features for labels v{phase.version}")
    with trainer.clock.measure("features"):
        snapshot = bank_snapshot(trainer, state) if source == "bank" else extract_snapshot(trainer, state, reader)
    try:
        trainer.store.features.publish(
            snapshot,
            version=phase.version,
            parents=[checkpoint_ref(trainer, phase)],
            summary={"source": source},
            provenance=trainer.provenance.now(),
        )
    except VersionExistsError:
        logger.info("the features for labels v%d are there already", phase.version)


def checkpoint_ref(trainer: Trainer, phase: Phase) -> ArtifactRef:
    """Return the checkpoint that the labels of `phase` are made from."""
    return trainer.store.checkpoints.ref(phase.snapshot_epoch)


def extract_snapshot(trainer: Trainer, state: TrainState, reader: ViewReader) -> FeatureSnapshot:
    """Return the features of the test view of all training clips, from the network as it is now."""
    # In full precision, as the labeler computes the features of the augmented copies that they are clustered with.
    features_ND, _ = forward_rows(
        state.model,
        training_rows(trainer.data),
        reader.test,
        batch_size=4 * trainer.config.trainer.batch_size,
        tick=trainer.claim.tick,
    )
    return snapshot_of(trainer.data, state.epoch, features_ND)


def bank_snapshot(trainer: Trainer, state: TrainState) -> FeatureSnapshot:
    """Return the weak-view features that the last epoch computed."""
    missing = int((~state.bank.labeled_seen_M).sum())
    if missing:
        raise ConfigError(
            f"features.source: bank has no features of {missing} labelled clips after epoch {state.epoch}; "
            "use features.source: trainer, or a longer warm-up"
        )
    return snapshot_of(trainer.data, state.epoch, torch.cat([state.bank.labeled_MD, state.bank.unlabeled_ND]).numpy())
