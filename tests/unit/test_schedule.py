from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aplt.common.schedule import Phase, Schedule

PAPER = Schedule(warmup_epochs=15, epochs=40, phase_epochs=10, lead_epochs=0)


def test_the_papers_schedule() -> None:
    assert PAPER.phases == (
        Phase(1, 15, 16, 25),
        Phase(2, 25, 26, 35),
        Phase(3, 35, 36, 45),
        Phase(4, 45, 46, 55),
        Phase(5, 55, 56, 55),
    )
    assert [PAPER.labels_for(epoch) for epoch in (1, 15, 16, 25, 26, 55)] == [None, None, 1, 1, 2, 4]


def test_a_lead_moves_the_snapshots_but_not_the_use_of_the_labels() -> None:
    lead = Schedule(warmup_epochs=15, epochs=40, phase_epochs=10, lead_epochs=1)
    assert [phase.snapshot_epoch for phase in lead.phases] == [14, 24, 34, 44, 55]
    for epoch in range(1, 56):
        assert lead.labels_for(epoch) == PAPER.labels_for(epoch)


def test_a_last_phase_that_is_cut_short() -> None:
    plan = Schedule(warmup_epochs=3, epochs=5, phase_epochs=4, lead_epochs=1)
    assert plan.phases == (Phase(1, 2, 4, 7), Phase(2, 6, 8, 8), Phase(3, 8, 9, 8))


def test_no_phases_for_a_method_without_labels() -> None:
    plan = Schedule(warmup_epochs=0, epochs=4, phase_epochs=2, lead_epochs=1, uses_labels=False)
    assert plan.phases == ()
    assert plan.labels_for(4) is None
    assert plan.prototypes_for(4) is None
    assert [plan.evaluates(epoch, 3) for epoch in (1, 2, 3, 4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"warmup_epochs": 0, "epochs": 0}, "at least one epoch"),
        ({"warmup_epochs": 0}, "warmup_epochs"),
        ({"warmup_epochs": 1}, "lead_epochs"),
        ({"phase_epochs": 0}, "phase_epochs"),
        ({"lead_epochs": 2}, "lead_epochs"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(changed: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**{"warmup_epochs": 2, "epochs": 4, "phase_epochs": 2, "lead_epochs": 1} | changed)


@given(warmup=st.integers(2, 8), epochs=st.integers(0, 20), phase=st.integers(1, 7), lead=st.integers(0, 1))
def test_no_service_ever_waits_for_what_the_other_cannot_have_sent(
    warmup: int, epochs: int, phase: int, lead: int
) -> None:
    plan = Schedule(warmup_epochs=warmup, epochs=epochs, phase_epochs=phase, lead_epochs=lead)
    assert [p.version for p in plan.phases] == list(range(1, len(plan.phases) + 1))
    assert len({p.snapshot_epoch for p in plan.phases}) == len(plan.phases)
    for epoch in range(1, plan.total_epochs + 1):
        version = plan.labels_for(epoch)
        assert (version is None) == (epoch <= warmup)
        if version is not None:
            assert plan.phases[version - 1].snapshot_epoch < epoch
        newest = plan.prototypes_for(epoch)
        assert newest is None or plan.phases[newest - 1].snapshot_epoch <= epoch
        snapshot = plan.snapshot_after(epoch)
        assert snapshot is None or snapshot.snapshot_epoch == epoch
    assert plan.phases[-1].snapshot_epoch == plan.total_epochs
    assert plan.prototypes_for(plan.total_epochs) == len(plan.phases)
