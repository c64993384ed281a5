"""What a run needs no more: checkpoints and features from which everything has been made.

Labels and evaluations are small, and are never in question. Only what nobody waits for is, so a store may be tidied at
any moment, from any process, however old the answers are that the decision rests on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from aplt.common.config import BaseRunConfig
from aplt.common.errors import MissingArtifactError
from aplt.common.schedule import Schedule
from aplt.common.store import ArtifactStore


def unneeded(
    plan: Schedule,
    *,
    evaluate_every: int,
    keep_phases: int,
    checkpoints: Collection[int],
    features: Collection[int],
    labels: Collection[int],
    evaluations: Collection[int],
) -> tuple[list[int], list[int]]:
    """Return the checkpoints and the features, by number, that may go.

    There stay: the two newest checkpoints; what labels or an evaluation are still to come from; and what the newest
    `keep_phases` label versions were made from, so that a damaged one can be made again without training.

    Args:
        plan: The schedule of the run.
        evaluate_every: As in `labeler.evaluate_every`.
        keep_phases: As in `store.keep_phases`.
        checkpoints: Epochs whose checkpoint is there.
        features: Versions that are there.
        labels: Versions that are there; those without checkpoint and features may be left out.
        evaluations: Epochs that are evaluated; those without a checkpoint may be left out.
    """
    made = [phase for phase in plan.phases if phase.version in labels][-keep_phases:]
    sources = [phase for phase in plan.phases if phase.version not in labels] + made
    needed = {phase.snapshot_epoch for phase in sources} | set(sorted(checkpoints)[-2:])
    needed |= {epoch for epoch in checkpoints if plan.evaluates(epoch, evaluate_every) and epoch not in evaluations}
    return sorted(set(checkpoints) - needed), sorted(set(features) - {phase.version for phase in sources})


def unneeded_in(store: ArtifactStore, config: BaseRunConfig, *, keep_phases: int) -> dict[str, list[int]]:
    """Return the versions of a run that may go, by series; see `unneeded`."""
    plan = config.plan()
    checkpoints, features = store.checkpoints.versions(), store.features.versions()
    phases = [p.version for p in plan.phases if p.version in features or p.snapshot_epoch in checkpoints]
    epochs, versions = unneeded(
        plan,
        evaluate_every=config.labeler.evaluate_every,
        keep_phases=keep_phases,
        checkpoints=checkpoints,
        features=features,
        labels=[version for version in phases if store.labels.exists(version)],
        evaluations=[epoch for epoch in checkpoints if store.evaluations.exists(epoch)],
    )
    return {"checkpoints": epochs, "features": versions}


def prune(store: ArtifactStore, config: BaseRunConfig) -> None:
    """Remove what the run needs no more, as far as its configuration allows."""
    if config.trainer.keep_checkpoints != "all":
        remove(store, unneeded_in(store, config, keep_phases=config.store.keep_phases))


def remove(store: ArtifactStore, versions: Mapping[str, Collection[int]]) -> None:
    """Remove these versions, by series, as far as they are there."""
    for name, numbers in versions.items():
        for number in numbers:
            with suppress(MissingArtifactError):  # another process was quicker
                store.series(name).remove(number)
