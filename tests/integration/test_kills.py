"""Either service, killed by SIGKILL at chosen points: in the end there is exactly what an undisturbed run leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from kill_points import END, KillPoint, Step, run

from aplt.common.service import ROLES, read_status
from aplt.common.store import ArtifactStore

pytestmark = pytest.mark.slow
WriteConfig = Callable[..., Path]
Undisturbed = Callable[[Path], ArtifactStore]
Services = Any  # the class lives in conftest.py, which cannot be imported


def published(name: str) -> list[KillPoint]:
    """While an artifact's objects are written, between them and the manifest, and right after the manifest."""
    return [
        KillPoint("put", f"{name}/", "torn"),
        KillPoint("create", f"{name}/manifest"),
        KillPoint("create", f"{name}/manifest", "after"),
    ]


STARTED = KillPoint("create", "claims/", "after")
WAITING = KillPoint("waiting", "", "after")
MID_EPOCH = KillPoint("loss", nth=3)

# The paper's alternation. First each side alone, as far as it gets without the other, then both together.
ALONE_THEN_TOGETHER: list[Step] = [
    {
        "trainer": [
            STARTED,
            MID_EPOCH,
            *published("checkpoints/v000001"),
            KillPoint("create", "checkpoints/v000002/manifest", "after"),  # its features are missing now
            *published("features/v000001"),
            WAITING,
            WAITING,
        ]
    },
    {
        "labeler": [
            STARTED,
            *published("labels/v000001"),
            *published("evaluations/v000001"),
            WAITING,
            WAITING,
        ]
    },
    {"trainer": [MID_EPOCH, *published("checkpoints/v000003")], "labeler": [WAITING]},
    {"trainer": [WAITING, END], "labeler": [*published("labels/v000002"), KillPoint("put", "report/summary.md")]},
]
FEATURES_OF_THE_EPOCH: list[Step] = [
    {
        "trainer": [*published("checkpoints/v000001"), *published("features/v000001"), MID_EPOCH, WAITING],
        "labeler": [WAITING],
    },
    {
        "trainer": [*published("features/v000002"), END],
        "labeler": [KillPoint("create", "labels/v000001/manifest", "after"), *published("labels/v000003")],
    },
]
FEATURES_BY_THE_LABELER: list[Step] = [
    {"trainer": [WAITING], "labeler": [STARTED, *published("features/v000001"), *published("labels/v000001")]},
    {
        "trainer": [MID_EPOCH, KillPoint("create", "checkpoints/v000005/manifest", "after")],
        "labeler": [*published("features/v000002"), KillPoint("create", "labels/v000002/manifest"), END],
    },
]
CHECKPOINTS_REMOVED: list[Step] = [
    {"trainer": [KillPoint("create", "features/v000001/manifest"), WAITING], "labeler": [WAITING]},
    {"labeler": [KillPoint("create", "evaluations/v000002/manifest", "after")]},
    {
        "trainer": [
            KillPoint("delete", "checkpoints/v000002/manifest", "after"),  # its objects are garbage now
            KillPoint("put", "spans/"),
            END,
        ],
        "labeler": [KillPoint("create", "evaluations/v000004/manifest"), END],
    },
]


@pytest.mark.parametrize(
    ("lead", "source", "keep", "steps"),
    [
        (0, "trainer", "all", ALONE_THEN_TOGETHER),
        (1, "bank", "all", FEATURES_OF_THE_EPOCH),
        (1, "labeler", "all", FEATURES_BY_THE_LABELER),
        (1, "trainer", "needed", CHECKPOINTS_REMOVED),
    ],
)
def test_kills_leave_no_trace(
    services: Services,
    write_config: WriteConfig,
    undisturbed: Undisturbed,
    tmp_path: Path,
    lead: int,
    source: str,
    keep: str,
    steps: Sequence[Step],
) -> None:
    path = write_config(schedule={"lead_epochs": lead}, features={"source": source}, trainer={"keep_checkpoints": keep})
    expected = services.contents(undisturbed(path))

    pids = run(path, tmp_path, steps)
    store = services.store(path)
    there = services.contents(store)
    assert there == {name: digests for name, digests in expected.items() if name in there}
    if keep == "needed":
        assert {name for name in expected if name not in there} == {"checkpoints/1", "checkpoints/2", "features/1"}
    else:
        assert there.keys() == expected.keys()
    assert store.labels.versions() == [1, 2, 3]
    for role in ROLES:
        status = read_status(store, role)
        assert status is not None
        assert status.state == "finished"
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []

    assert store.verify() == []
    garbage = store.gc(grace_s=0).keys
    assert garbage  # what the killed writers left
    assert services.contents(store) == there
    assert store.gc(grace_s=0).keys == []
    assert store.verify() == []
