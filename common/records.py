"""What a service leaves behind for people: JSON lines, TensorBoard events, and where its time went."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import JsonValue
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from aplt.common.errors import StoreError

logger = logging.getLogger(__name__)


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
    """Appends metrics to `<role>.jsonl` and to TensorBoard events in one folder; lines tell the process by `claim`.

    Raises:
        StoreError: the folder cannot be written to, now or in `write`.
    """

    def __init__(self, directory: Path, role: str, *, claim: int) -> None:
        self._directory = directory
        self._role = role
        self._claim = claim
        with self._explained():
            directory.mkdir(parents=True, exist_ok=True)
            self._lines = (directory / f"{role}.jsonl").open("a+b", buffering=0)
            try:
                self._end_torn_line()
                self._events = _event_writer(directory / "tensorboard" / role)
            except OSError:
                self._lines.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        try:
            with self._explained():
                self._events.close()
        except StoreError as second:
            if error is None:
                raise
            logger.warning("%s", second)  # what stopped the service matters more

    def write(self, event: str, step: int, /, **values: float) -> None:
        """Record numbers that belong to `step`, an epoch."""
        line = {"time": datetime.now(UTC).isoformat(), "role": self._role, "claim": self._claim, "event": event}
        data = (json.dumps(line | {"epoch": step} | values) + "\n").encode()
        with self._explained():
            while data:
                data = data[self._lines.write(data) :]
            scalars = [Summary.Value(tag=f"{event}/{name}", simple_value=value) for name, value in values.items()]
            summary = Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
            self._events.write(summary.SerializeToString())
            self._events.flush()

    def _end_torn_line(self) -> None:
        """Let a line that an earlier process could not finish be one of its own."""
        if self._lines.tell():
            self._lines.seek(-1, os.SEEK_END)
            if self._lines.read(1) != b"\n":
                self._lines.write(b"\n")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"Cannot write the records in {self._directory}: {error.strerror or error}; free some disk space, or "
                "make the folder writable, and start the service again."
            ) from None


def _event_writer(folder: Path) -> RecordWriter:
    """Return a writer of TensorBoard events to a new file. No thread is behind it, so a full disk is told at once."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}.{os.getpid()}"
    writer = RecordWriter(path.open("ab"))
    writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    return writer
