from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aplt.common.records import MetricLog, Stopwatch


def test_a_stopwatch_sums_spans_by_name_and_forgets_what_was_taken() -> None:
    clock = Stopwatch()
    for what in ("train", "wait", "train"):
        with clock.measure(what):
            pass
    assert set(clock.seconds()) == {"train_s", "wait_s"}
    spans = clock.take_spans()
    assert [span["what"] for span in spans if isinstance(span, dict)] == ["train", "wait", "train"]
    assert clock.seconds() == {}


def test_a_span_is_recorded_even_if_its_block_fails() -> None:
    clock = Stopwatch()
    with pytest.raises(ValueError, match="boom"), clock.measure("train"):
        raise ValueError("boom")
    assert "train_s" in clock.seconds()


def test_metrics_of_two_processes_follow_each_other(tmp_path: Path) -> None:
    for claim in (1, 2):
        with MetricLog(tmp_path, "trainer", claim=claim) as log:
            log.write("epoch", claim, loss=0.5 * claim)
    lines = [json.loads(line) for line in (tmp_path / "trainer.jsonl").read_text().splitlines()]
    assert [(line["claim"], line["epoch"], line["loss"]) for line in lines] == [(1, 1, 0.5), (2, 2, 1.0)]
    events = EventAccumulator(str(tmp_path / "tensorboard" / "trainer")).Reload()
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("epoch/loss")][-1] == (2, 1.0)
