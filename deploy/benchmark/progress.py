"""How far a grid is, for people: a live picture on a terminal, a line for every cell elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aplt.common.errors import StoreError
from aplt.common.service import read_status
from aplt.deploy.benchmark.records import Cell, Record, final_accuracy, find_record
from aplt.deploy.display import duration, percent
from aplt.deploy.runs import open_store

SHOWN_FAILURES = 5


class Progress:
    """Counts cells, and estimates the time left from how long finished ones of the same row took."""

    def __init__(self, console: Console, cells: Sequence[Cell], todo: Mapping[str, Cell], records: Sequence[Record]):
        self.failed: dict[str, str] = {}
        self._console = console
        self._total = len(cells)
        self._done = self._total - len(todo)
        self._todo = dict(todo)
        self._shares: dict[str, float] = {}
        self._side_by_side = 0
        self._seconds: dict[str, list[float]] = {}
        for cell in cells:
            if (record := find_record(cell, records)) is not None:
                self._seconds.setdefault(cell.row, []).append(record["wall_s"])
        self._live: Live | None = None

    def start(self, name: str) -> None:
        """Note that a cell is at work."""
        self._shares[name] = 0.0
        self._side_by_side = max(self._side_by_side, len(self._shares))
        self._say(f"{name} started")

    def finish(self, name: str, record: Record) -> None:
        """Note that a cell is done."""
        self._seconds.setdefault(record["row"], []).append(record["wall_s"])
        self._end(name)
        self._done += 1
        self._say(f"{name}: {percent(final_accuracy(record))} in {duration(record['wall_s'])}")

    def fail(self, name: str, reason: str) -> None:
        """Note that a cell failed."""
        self._end(name)
        self.failed[name] = reason
        self._say(f"{name} failed: {reason}")

    def look(self) -> None:
        """Ask the runs at work how far they are."""
        for name in self._shares:
            try:
                status = read_status(open_store(self._todo[name].config), "trainer")
            except StoreError:  # it will be asked again, and its services say themselves what is wrong
                continue
            if status is not None:
                self._shares[name] = status.done
        if self._live is not None:
            self._live.update(self._picture())

    def left_s(self) -> float | None:
        """Return the estimated seconds until all is done, None while no cell is finished."""
        all_seconds = [seconds for of_row in self._seconds.values() for seconds in of_row]
        if not all_seconds or not self._side_by_side or not self._todo:
            return None
        mean = sum(all_seconds) / len(all_seconds)
        left = 0.0
        for name, cell in self._todo.items():
            of_row = self._seconds.get(cell.row)
            left += (sum(of_row) / len(of_row) if of_row else mean) * (1 - self._shares.get(name, 0.0))
        return left / min(self._side_by_side, len(self._todo))

    def counts(self) -> str:
        """Return in one line how many cells are done, running and failed, and the time left."""
        parts = [f"{self._done} of {self._total} runs done"]
        parts += [f"{len(self._shares)} running"] if self._shares else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        left = self.left_s()
        return ", ".join(parts) + ("" if left is None else f", about {duration(left)} left")

    def _end(self, name: str) -> None:
        self._shares.pop(name, None)
        self._todo.pop(name)

    def _say(self, what: str) -> None:
        if self._live is None:
            self._console.print(f"{time.strftime('%H:%M:%S')} {what} ({self.counts()})", markup=False)
        else:
            self._live.update(self._picture())

    def _picture(self) -> RenderableType:
        running = Table.grid(padding=(0, 2))
        for name, share in self._shares.items():
            running.add_row(name, ProgressBar(total=1, completed=share, width=30), f"{100 * share:3.0f} %")
        failed = [Text(f"{name} failed: {why}", "red") for name, why in list(self.failed.items())[-SHOWN_FAILURES:]]
        return Group(Text(self.counts(), "bold"), running, *failed)


@contextmanager
def progress_on(
    console: Console, cells: Sequence[Cell], todo: Mapping[str, Cell], records: Sequence[Record]
) -> Iterator[Progress]:
    """Show the progress of a grid for the time of the block."""
    progress = Progress(console, cells, todo, records)
    console.print(progress.counts())
    if not console.is_terminal or not todo:
        yield progress
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        progress._live = live
        yield progress
