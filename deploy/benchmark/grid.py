"""Runs the cells of a grid that have no record yet, and shows how far they are."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from aplt.common.errors import RunError
from aplt.common.store import ArtifactStore
from aplt.deploy.benchmark.progress import Progress, progress_on
from aplt.deploy.benchmark.records import Cell, Record, find_record, read_records, write_record
from aplt.deploy.config import ClusterConfig
from aplt.deploy.local import start_host
from aplt.deploy.runs import open_store

POLL_S = 2.0
ENDING_S = 30.0
KEPT = "kept.json"
"""In a finished run that --keep-runs kept: no later benchmark removes it."""


class Folder:
    """Where a benchmark keeps everything: records, logs of failed cells, runs at work, and tables."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def records(self) -> Path:
        """A file for every finished cell; files from other machines count."""
        return self.path / "records"

    def failure_of(self, cell: Cell) -> str | None:
        """Return why a cell failed when it was last run, None if it did not."""
        log = self._log_of(cell.name)
        return log.read_text(encoding="utf-8").partition("\n")[0] if log.is_file() else None

    def finished(self, name: str, record: Record) -> None:
        """Keep the record of a cell."""
        write_record(self.records / f"{name}.json", record)
        self._log_of(name).unlink(missing_ok=True)

    def failed(self, name: str, reason: str, log: str) -> None:
        """Keep why a cell failed, and what its services said."""
        self._log_of(name).parent.mkdir(parents=True, exist_ok=True)
        self._log_of(name).write_text(f"{reason}\n\n{log}", encoding="utf-8")

    def _log_of(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no second benchmark work in this folder. Raises RunError if there is one, or it cannot be a folder."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RunError(
                f"--out {self.path} cannot be used as a folder ({error.strerror}): choose another one"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise RunError(
                f"another `aplt benchmark` works in {self.path}: wait for it, stop it with Ctrl-C, or choose another "
                "folder with --out"
            ) from None
        finally:
            os.close(handle)


def run_grid(
    cells: Sequence[Cell], cluster: ClusterConfig, folder: Folder, console: Console, *, keep_runs: bool
) -> int:
    """Run what has no record on the cluster, as much side by side as fits; returns how many cells failed.

    Raises:
        RunError: the cluster cannot be reached, or has not what one cell asks for.
    """
    records = read_records(folder.records)
    todo = {cell.name: cell for cell in cells if find_record(cell, records) is None}
    if not keep_runs:
        _remove_leftovers(cells, todo)
    with progress_on(console, cells, todo, records) as progress:
        if todo:
            for message in _answers(todo, cluster, folder, progress):
                _take(message, todo, folder, progress, keep_runs=keep_runs)
    return len(progress.failed)


def _remove_leftovers(cells: Sequence[Cell], todo: Mapping[str, Cell]) -> None:
    """Remove the runs that have their record and were not to be kept: a benchmark was killed between the two."""
    there = set(ArtifactStore.runs(cells[0].config.store.url, options=cells[0].config.store.options))
    for cell in cells:
        if cell.name in there and cell.name not in todo and (run := open_store(cell.config)).read_bytes(KEPT) is None:
            run.remove_run()


def _take(
    message: dict[str, Any], todo: dict[str, Cell], folder: Folder, progress: Progress, *, keep_runs: bool
) -> None:
    name = message["name"]
    if message["event"] == "started":
        progress.start(name)
        return
    error = message.get("error")
    if error is None:
        run = open_store(todo[name].config)
        try:
            if keep_runs:
                run.create_json(KEPT, {})
            folder.finished(name, message["record"])
        except OSError as fault:
            error = (
                f"the run is complete, but its record cannot be written: {fault}. Mend that; the run stays until then"
            )
    if error is not None:
        with suppress(OSError):  # where no record can be written, perhaps no log can be either; the next line says why
            folder.failed(name, error, message.get("log", ""))
        progress.fail(name, error)
        return
    progress.finish(name, message["record"])
    if not keep_runs:
        run.remove_run()


def _answers(
    todo: dict[str, Cell], cluster: ClusterConfig, folder: Folder, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Yield what the host process says of the cells; it and all that it started is gone when this ends.

    Raises:
        RunError: it could not start, or ended unexpectedly.
    """
    log = folder.path / "logs" / "host.log"
    host = start_host("aplt.deploy.benchmark.host", log)
    assert host.stdin is not None
    assert host.stdout is not None
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    stdout = host.stdout

    def read() -> None:
        with stdout:
            for line in stdout:
                lines.put(line)
        lines.put(b"")

    reader = threading.Thread(target=read)
    jobs = {
        name: {
            "cell": {
                **{"row": cell.row, "ratio": cell.ratio, "seed": cell.seed},
                **{"data": cell.data, "settings": cell.settings},
            },
            "config": cell.config.model_dump(mode="json"),
        }
        for name, cell in todo.items()
    }
    request = {
        "address": cluster.address,
        "cpus": cluster.trainer.cpus + cluster.labeler.cpus,
        "gpus": cluster.trainer.gpus + cluster.labeler.gpus,
        "jobs": jobs,
    }
    try:
        reader.start()
        with suppress(BrokenPipeError):  # it ended at once; what it answers, nothing, says so
            host.stdin.write(json.dumps(request).encode() + b"\n")
            host.stdin.flush()
        while True:
            try:
                line = lines.get(timeout=POLL_S)
            except queue.Empty:
                progress.look()
                continue
            if not line:
                break
            message = json.loads(line)
            if message["event"] == "failed":
                raise RunError(message["error"])
            yield message
    finally:
        with suppress(BrokenPipeError):
            host.stdin.close()  # which ends it and all that it started
        host.wait(ENDING_S)
        reader.join()
    if host.returncode:
        raise RunError(f"the process that holds the grid's cluster ended with code {host.returncode} (its log: {log})")
