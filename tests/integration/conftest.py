"""Real clips, real processes: a small run that takes seconds, and ways to start and kill its services.

Services are forked from a process that has imported everything (see kill_points.py), unless a test starts the command
itself; every other command is a new process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import kill_points
import pytest
import yaml

from aplt.common.config import config_digest
from aplt.common.service import ROLES, Role
from aplt.common.store import ArtifactStore
from aplt.deploy.config import load_config
from aplt.deploy.runs import open_store
from aplt.deploy.synthetic import make_clips

PATIENCE_S = 240.0
SETTINGS: dict[str, Any] = {
    "run": "run",
    "data": {
        "group_regex": "^(S[0-9]+)_",
        "test": {"rule": "random", "every": 4},
        "labeled": {"ratio": 0.3},
        "num_frames": 4,
        "clip_size": 32,
        "crop_size": 28,
        "workers": 2,
    },
    "model": {"name": "tiny_tsm"},
    "schedule": {"warmup_epochs": 2, "epochs": 3, "phase_epochs": 2, "lead_epochs": 1},
    "trainer": {"batch_size": 8, "lr": 0.02, "threads": 1, "keep_checkpoints": "all", "wait_timeout_s": 120},
    "labeler": {"threads": 1, "wait_timeout_s": 120},
}


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small micro-action clips in eight classes."""
    return make_clips(tmp_path_factory.mktemp("clips") / "clips", num_clips=96, num_subjects=4, size=48, workers=2)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clips are decoded into, once for all tests."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def write_config(clips: Path, prepared: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration file into a fresh folder; returns its path."""

    def write(name: str = "cfg.yaml", **sections: Any) -> Path:
        settings = {**SETTINGS, "store": {"url": str(tmp_path / "runs")}}
        settings["data"] = {**SETTINGS["data"], "root": str(clips), "prepared": str(prepared)}
        for section, values in sections.items():
            settings[section] = {**settings.get(section, {}), **values} if isinstance(values, dict) else values
        path = tmp_path / name
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


class Forked:
    """A forked service, with as much of the interface of `Popen` as the tests use."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        """Return the exit code, None while it is at work."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when there is one."""
        self._process.join(timeout)
        code = self._process.exitcode
        assert code is not None, f"process {self.pid} is still at work after {timeout} s"
        return code

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()


Process = Forked | subprocess.Popen[bytes]


class Services:
    """The services of runs in the foreground, one process each, all gone when the test is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs: dict[int, Path] = {}
        self._processes: list[Process] = []

    def start(self, role: Role, path: Path, *overrides: str) -> Process:
        """Start `aplt train` or `aplt label`."""
        arguments = [part for override in overrides for part in ("--set", override)]
        log = self._folder / f"process-{len(self._processes)}.log"
        return self._started(Forked(kill_points.start(role, path, log, *arguments)), log)

    def command(self, *arguments: str) -> Process:
        """Start an aplt command in a process of its own."""
        log = self._folder / f"process-{len(self._processes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "aplt.deploy.cli", *arguments], stdout=output, stderr=output
            )
        return self._started(process, log)

    def _started(self, process: Process, log: Path) -> Process:
        self._processes.append(process)
        self._logs[process.pid] = log
        return process

    def said(self, process: Process) -> str:
        """What a process printed so far."""
        return self._logs[process.pid].read_text()

    def finish(self, *processes: Process) -> None:
        """Wait for processes, which must succeed."""
        for process in processes:
            assert process.wait(PATIENCE_S) == 0, self.said(process)

    def run(self, path: Path, *overrides: str) -> ArtifactStore:
        """Run both services to the end; returns the store."""
        self.finish(*(self.start(role, path, *overrides) for role in ROLES))
        return self.store(path, *overrides)

    def store(self, path: Path, *overrides: str) -> ArtifactStore:
        """The store of the run that a configuration file names."""
        return open_store(load_config(path, overrides))

    def kill(self, process: Process) -> None:
        """End a process without any warning."""
        process.kill()
        process.wait()

    def wait_for(self, condition: Callable[[], object], process: Process | None = None) -> None:
        """Return when the condition holds; fails if the process ends before that, or after a long time."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            assert process is None or process.poll() is None, self.said(process)
            time.sleep(0.02)

    def contents(self, store: ArtifactStore) -> dict[str, list[str]]:
        """The digests of all data that the services made: equal if equal to the bit."""
        return kill_points.contents(store)

    def close(self) -> None:
        """Leave no process behind."""
        for process in self._processes:
            if process.poll() is None:
                self.kill(process)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Starts services and makes sure that none is left over."""
    started = Services(tmp_path)
    yield started
    started.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], ArtifactStore]:
    """Returns the store of a run with the settings of a file that nobody disturbs: to be read, not to be changed.

    The tests' own runs of such settings are compared with it, so it is made once for all of them.
    """
    folder = tmp_path_factory.mktemp("undisturbed")

    def made(path: Path) -> ArtifactStore:
        overrides = ["run=undisturbed", "trainer.keep_checkpoints=all"]
        key = config_digest(load_config(path, overrides).model_dump(mode="json")).removeprefix("sha256:")
        overrides.append(f"store.url={folder / key}")
        store = open_store(load_config(path, overrides))
        if not store.checkpoints.versions():
            arguments = [part for override in overrides for part in ("--set", override)]
            kill_points.run(path, folder, [], *arguments)
        return store

    return made
