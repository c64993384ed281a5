"""Nothing that anybody still needs is ever removed, whatever happens when; and what stays does not grow."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aplt.common.artifacts import Checkpoint, Evaluation, FeatureSnapshot
from aplt.common.manifest import Provenance
from aplt.common.retention import prune, unneeded
from aplt.common.schedule import Schedule
from aplt.common.store import ArtifactStore
from aplt.deploy.config import RunConfig

Snapshot = tuple[set[int], set[int], set[int], set[int]]


@dataclass
class Run:
    """A run as numbers of versions, with both services as single steps: each step is a point to be killed at."""

    plan: Schedule
    every: int
    keep: int
    checkpoints: set[int] = field(default_factory=set)
    features: set[int] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    evaluations: set[int] = field(default_factory=set)
    looked: list[Snapshot] = field(default_factory=list)

    def train(self) -> None:
        """Publish one thing of the trainer's, as one that has just started would."""
        newest = max(self.checkpoints, default=0)
        for phase in self.plan.phases:
            if phase.snapshot_epoch <= newest and not {phase.version} & (self.features | self.labels):
                assert phase.snapshot_epoch in self.checkpoints, "features cannot be made any more"
                self.features.add(phase.version)
                return
        if newest < self.plan.total_epochs and self.plan.labels_for(newest + 1) in self.labels | {None}:
            self.checkpoints.add(newest + 1)

    def label(self) -> None:
        """Publish one thing of the labeler's."""
        newest = max(self.checkpoints, default=0)
        for phase in self.plan.phases:
            if phase.version not in self.labels:
                if phase.version in self.features:
                    assert phase.snapshot_epoch in self.checkpoints, "labels cannot be made any more"
                    self.labels.add(phase.version)
                    return
                break
        for epoch in range(1, newest + 1):
            if self.plan.evaluates(epoch, self.every) and epoch not in self.evaluations:
                assert epoch in self.checkpoints, "cannot be evaluated any more"
                if self.plan.prototypes_for(epoch) in self.labels | {None}:
                    self.evaluations.add(epoch)
                    return

    def there(self) -> Snapshot:
        """What is published and not removed."""
        return set(self.checkpoints), set(self.features), set(self.labels), set(self.evaluations)

    def look(self) -> None:
        """Begin to tidy up: what is there is asked now."""
        self.looked.append(self.there())

    def prune(self) -> None:
        """Tidy up after an earlier look, maybe a very old one."""
        if not self.looked:
            return
        checkpoints, features, labels, evaluations = self.looked.pop()
        epochs, versions = unneeded(
            self.plan,
            evaluate_every=self.every,
            keep_phases=self.keep,
            checkpoints=checkpoints,
            features=features,
            labels=labels,
            evaluations=evaluations,
        )
        newest = max(self.checkpoints, default=0)
        self.checkpoints -= set(epochs)
        self.features -= set(versions)
        assert max(self.checkpoints, default=0) == newest, "cannot be resumed where it was"
        for phase in [phase for phase in self.plan.phases if phase.version in self.labels][-self.keep :]:
            assert phase.snapshot_epoch in self.checkpoints, "the newest labels cannot be made again"


@st.composite
def runs(draw: st.DrawFn) -> Run:
    lead = draw(st.integers(0, 1))
    plan = Schedule(
        warmup_epochs=draw(st.integers(1 + lead, 4)),
        epochs=draw(st.integers(0, 12)),
        phase_epochs=draw(st.integers(1, 4)),
        lead_epochs=lead,
        uses_labels=draw(st.booleans()),
    )
    return Run(plan, draw(st.integers(0, 3)), draw(st.integers(1, 3)))


@settings(max_examples=300, deadline=None)
@given(runs(), st.lists(st.sampled_from(["train", "label", "look", "prune"]), max_size=120))
def test_nothing_that_is_needed_goes(run: Run, steps: list[str]) -> None:
    for step in steps:
        getattr(run, step)()
    before = None
    while (now := run.there()) != before:  # then both work on undisturbed, until nothing is left to do
        before = now
        run.train()
        run.label()
        run.look()
        run.prune()
    plan = run.plan
    assert run.labels == {phase.version for phase in plan.phases}
    assert run.evaluations == {e for e in range(1, plan.total_epochs + 1) if plan.evaluates(e, run.every)}
    assert len(run.checkpoints) <= 2 + run.keep
    assert len(run.features) <= run.keep


def test_a_store_stays_flat_over_many_phases() -> None:
    store = ArtifactStore("memory://flat", "run")
    schedule = {"warmup_epochs": 2, "epochs": 40, "phase_epochs": 2}
    config = RunConfig.model_validate({"run": "run", "data": {"root": "clips"}, "schedule": schedule})
    plan = config.plan()
    who = Provenance(role="trainer", host="h", pid=1, config_digest="d", code_version="v", created_at="t")
    sizes = []
    one = np.zeros(1, np.float32)
    for epoch in range(1, plan.total_epochs + 1):
        store.checkpoints.publish(Checkpoint(epoch=epoch, weights={"w": one}, state={}), version=epoch, provenance=who)
        if phase := plan.snapshot_after(epoch):
            snapshot = FeatureSnapshot(
                epoch=epoch, rows_N=np.zeros(1, np.int32), features_ND=one[:, None], labels_N=np.zeros(1, np.int16)
            )
            store.features.publish(snapshot, version=phase.version, provenance=who)
            store.labels._objects.put(store.labels._key(phase.version), b"made")
        store.evaluations.publish(Evaluation(epoch=epoch, scalars={}, arrays={}), version=epoch, provenance=who)
        prune(store, config)
        sizes.append(len(store.list_names("checkpoints")) + len(store.list_names("features")))
    per_checkpoint, per_features = 3, 8
    assert max(sizes) <= (2 + 2) * per_checkpoint + 2 * per_features
    assert sizes[10] > per_checkpoint + per_features
    assert store.features.versions() == [phase.version for phase in plan.phases][-2:]
