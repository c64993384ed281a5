"""Clips to a prepared folder (manifest, splits, clip cache), with progress for people; what is there is not done again."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from aplt.common.data.prepared import PreparedData, PrepareProgress, PrepareReport, prepare
from aplt.deploy.config import RunConfig
from aplt.deploy.display import duration

LINE_EVERY_S = 5.0
"""On anything but a terminal, progress is a line so often."""


def prepare_if_needed(config: RunConfig, console: Console) -> PreparedData:
    """Return the prepared data of a configuration, after doing whatever of it is missing.

    Raises:
        DataError: the clips or labels are missing or unusable.
    """
    report = run_prepare(config, console)
    if report.decoded_now:
        console.print(f"prepared {report.num_clips} clips in {duration(report.seconds)}")
    if report.quarantined:
        console.print(f"{len(report.quarantined)} clips cannot be used; `aplt data check` names them")
    return PreparedData.open(config.data.prepared)


def run_prepare(config: RunConfig, console: Console) -> PrepareReport:
    """Return what there is after preparing; of several processes on one folder, one prepares and the others wait."""
    data = config.data
    with _alone(data.prepared, console), _progress(console) as progress:
        return prepare(
            root=data.root,
            prepared=data.prepared,
            adapter=data.adapter,
            labels=data.labels,
            group_regex=data.group_regex,
            test=data.test,
            labeled=data.labeled,
            seed=data.split_seed,
            num_segments=data.num_frames,
            frames_per_segment=data.frames_per_segment,
            size=data.clip_size,
            fit=data.fit,
            workers=data.workers,
            timeout_s=data.timeout_s,
            max_bad_share=data.max_bad_share,
            progress=progress,
        )


@contextmanager
def _alone(folder: Path, console: Console) -> Iterator[None]:
    """Hold the right to prepare this folder; it ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"another process is preparing {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[PrepareProgress], None]]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(progress: PrepareProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, completed=progress.done, total=progress.total)
            bars.update(tasks[progress.stage], completed=progress.done, total=progress.total)

        yield show


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


class _Lines:
    """Says where the work is when a stage begins or ends and every few seconds, with rate and time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._stage = ""
        self._started, self._done_at_start, self._last = 0.0, 0, 0.0

    def __call__(self, progress: PrepareProgress) -> None:
        now = self._clock()
        if progress.stage != self._stage:
            self._stage, self._started, self._done_at_start, self._last = progress.stage, now, progress.done, now
            return
        if now - self._last < LINE_EVERY_S:
            return
        self._last = now
        rate = (progress.done - self._done_at_start) / (now - self._started)
        left = f", {rate:.1f}/s, {duration((progress.total - progress.done) / rate)} left" if rate else ""
        self._console.print(f"{progress.stage}: {progress.done} of {progress.total}{left}", markup=False)
