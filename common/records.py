"""What a service leaves behind for people: JSON lines, TensorBoard events, and where its time went."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import JsonValue
from torch.utils.tensorboard import SummaryWriter


class Stopwatch:
    """Collects named spans of wall-clock time."""

    def __init__(self) -> None:
        self._spans: list[tuple[str, float, float]] = []

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Record the time that the block takes as a span called `what`."""
        start_wall, start = time.time(), time.perf_counter()
        try:
            yield
        finally:
            self._spans.append((what, start_wall, time.perf_counter() - start))

    def seconds(self) -> dict[str, float]:
        """Return the seconds per name since the spans were last taken, keys ending in `_s`."""
        totals: dict[str, float] = {}
        for what, _, seconds in self._spans:
            totals[f"{what}_s"] = totals.get(f"{what}_s", 0.0) + seconds
        return totals

    def spans(self) -> list[JsonValue]:
        """Return the spans since they were last taken, each with `what`, `start` (unix time) and `seconds`."""
        return [{"what": what, "start": start, "seconds": seconds} for what, start, seconds in self._spans]

    def take_spans(self) -> list[JsonValue]:
        """Return the spans since the last call and forget them."""
        spans = self.spans()
        self._spans = []
        return spans


class MetricLog:
    """Appends metrics to `<role>.jsonl` and to TensorBoard events in one folder; lines tell the process by `claim`."""

    def __init__(self, directory: Path, role: str, *, claim: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._role = role
        self._claim = claim
        self._lines = (directory / f"{role}.jsonl").open("a", encoding="utf-8")
        self._events = SummaryWriter(str(directory / "tensorboard" / role))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._events.close()

    def write(self, event: str, step: int, /, **values: float) -> None:
        """Record numbers that belong to `step`, an epoch."""
        line = {"time": datetime.now(UTC).isoformat(), "role": self._role, "claim": self._claim, "event": event}
        self._lines.write(json.dumps(line | {"epoch": step} | values) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{event}/{name}", value, step)
        self._events.flush()
