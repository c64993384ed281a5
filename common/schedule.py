"""When labels are made and which labels train which epoch: a pure function of four numbers.

Epochs are counted from 1; "after epoch e" is also the name of the checkpoint e. Both services derive what they do
from this plan and from the store alone, so timing never decides which label version is used where.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Phase:
    """One offline phase: labels `version` are made from checkpoint `snapshot_epoch` and used from `first_epoch` on.

    The last phase of a schedule trains no epoch (`first_epoch > last_epoch`): its prototypes classify test clips.
    """

    version: int
    snapshot_epoch: int
    first_epoch: int
    last_epoch: int


@dataclass(frozen=True)
class Schedule:
    """The plan of a run: warm-up epochs, then alternating phases (paper, section 4.2: 15 + 40, offline every 10)."""

    warmup_epochs: int
    epochs: int
    phase_epochs: int
    lead_epochs: int
    uses_labels: bool = True

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0 or self.epochs < 0 or self.total_epochs < 1:
            raise ValueError(f"a run needs at least one epoch, got {self.warmup_epochs} + {self.epochs}")
        if self.uses_labels and self.epochs and self.warmup_epochs < 1:
            raise ValueError("schedule.warmup_epochs must be at least 1: the first labels come from a trained network")
        if self.phase_epochs < 1:
            raise ValueError(f"schedule.phase_epochs must be at least 1, got {self.phase_epochs}")
        if self.lead_epochs not in (0, 1):
            raise ValueError(f"schedule.lead_epochs must be 0 or 1, got {self.lead_epochs}")
        if self.uses_labels and self.epochs and self.lead_epochs >= self.warmup_epochs:
            raise ValueError(
                f"schedule.lead_epochs ({self.lead_epochs}) must be smaller than schedule.warmup_epochs "
                f"({self.warmup_epochs}): the first labels need a checkpoint from inside the warm-up"
            )

    @property
    def total_epochs(self) -> int:
        return self.warmup_epochs + self.epochs

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """All phases in order; empty for a method that trains without label versions."""
        if not self.uses_labels:
            return ()
        total = self.total_epochs
        boundaries = range(self.warmup_epochs, total, self.phase_epochs)
        training = [
            Phase(version, boundary - self.lead_epochs, boundary + 1, min(boundary + self.phase_epochs, total))
            for version, boundary in enumerate(boundaries, start=1)
        ]
        # The prototypes for testing belong to the final network, so the last phase never leads.
        return (*training, Phase(len(training) + 1, total, total + 1, total))

    def labels_for(self, epoch: int) -> int | None:
        """The label version that trains `epoch`, or None during the warm-up."""
        versions = [phase.version for phase in self.phases if phase.first_epoch <= epoch <= phase.last_epoch]
        return versions[0] if versions else None

    def snapshot_after(self, epoch: int) -> Phase | None:
        """The phase whose features come from the checkpoint after `epoch`, if any (boundaries never coincide)."""
        return self._phase_by_snapshot.get(epoch)

    @cached_property
    def _phase_by_snapshot(self) -> dict[int, Phase]:
        return {phase.snapshot_epoch: phase for phase in self.phases}

    def prototypes_for(self, epoch: int) -> int | None:
        """The newest label version made from this checkpoint or an earlier one: what evaluates checkpoint `epoch`."""
        versions = [phase.version for phase in self.phases if phase.snapshot_epoch <= epoch]
        return versions[-1] if versions else None

    def evaluates(self, epoch: int, every: int) -> bool:
        """Whether checkpoint `epoch` is to be evaluated: every n-th, those that labels come from, and the last."""
        regular = every > 0 and epoch % every == 0
        return regular or epoch == self.total_epochs or self.snapshot_after(epoch) is not None
