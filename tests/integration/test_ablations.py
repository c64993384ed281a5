"""Real short runs of what Tables 3 to 5 of the paper vary: to the end, over a kill, and through every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from aplt.common.store import ArtifactStore
from aplt.deploy.cli import app

pytestmark = pytest.mark.slow
Services = Any  # the class lives in conftest.py, which cannot be imported

ROWS = {
    "fixmatch_asy": (["method.name=fixmatch", "method.offline_labels=true", "labeler.strategy=parametric"], "head"),
    "aplt_syn": (["method.pseudo_labels=online", "labeler.sat_scale=8"], "prototypes"),
    "variant_i": (["method.classifier=parametric"], "head"),
    "variant_ii": (["schedule.warmup_epochs=4", "schedule.epochs=0"], "prototypes"),
    "kmeans": (
        [
            *("labeler.strategy=kmeans", "labeler.threshold=none", "labeler.labeled_augmentation=false"),
            *("method.margin_view=weak", "method.preset=paper", "features.source=bank"),
        ],
        "prototypes",
    ),
}


def output_of(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("row", ROWS)
def test_a_run_of_a_row(services: Services, write_config: Callable[..., Path], clips: Path, row: str) -> None:
    overrides, head = ROWS[row]
    # After so few epochs the paper's thresholds keep nothing.
    path = write_config(schedule={"warmup_epochs": 2, "epochs": 2, "phase_epochs": 1}, labeler={"sat_scale": 2})
    overrides = [*overrides, "method.tau=0.2"]
    store: ArtifactStore = services.store(path, *overrides)
    trainer, labeler = (services.start(role, path, *overrides) for role in ("trainer", "labeler"))
    services.wait_for(lambda: store.checkpoints.exists(3), trainer)
    services.kill(trainer)
    services.finish(services.start("trainer", path, *overrides), labeler)

    versions = [1] if row == "variant_ii" else [1, 2, 3]
    assert store.labels.versions() == versions
    assert store.verify() == []
    lines = (store.local_path / "records" / "trainer.jsonl").read_text().splitlines()  # type: ignore[operator]
    last = [line for line in map(json.loads, lines) if line["event"] == "epoch"][-1]
    expected = {"aplt_syn": "margin_share", "variant_i": "u_offline", "kmeans": "u_margin"}.get(row, "u_logits")
    assert last[expected] > 0
    newest = store.labels.load(versions[-1])
    assert (newest.kept_N == (newest.distances_N < newest.adaptive_K[newest.labels_N])).all()
    if row == "kmeans":
        assert newest.kept_N.all()
        assert not np.allclose(np.linalg.norm(newest.prototypes_KD, axis=1), 1)  # the paper's are not normalised
    if row == "fixmatch_asy":
        assert (newest.distances_N[newest.kept_N] <= 0.8).all()

    run = store.local_path
    for command in (["list", run], ["show", run], ["export", run, "-o", "-"], ["diff", run, versions[0], versions[-1]]):
        output_of("versions", *command)
    summary = json.loads(store.read_bytes("report/summary.json") or b"")
    assert summary["tested_head"] == head
    assert summary["final"]["head"] is not None
    assert {"accuracy.png", "pseudo_labels.png", "timeline.png"} < set(summary["pictures"])
    evaluated = json.loads(output_of("evaluate", run, "--json"))
    assert evaluated["tested_head"] == head
    assert evaluated["recorded"][f"{head}/accuracy"] == summary["final"][head]["accuracy"]
    predicted = json.loads(output_of("predict", run, min(clips.rglob("*.mp4")), "--format", "json"))
    assert (predicted[0]["distance"] is None) == (head == "head")
