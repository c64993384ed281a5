"""Kill both services of one run again and again at random moments, and see that nothing comes of it.

    python tests/soak.py --kills 50 --seed 0

First a run is left alone. Then the same run is made while its services are killed by SIGKILL: either or both, some of
them again within a second of their restart, and in between paused by SIGSTOP for a while. In the end both runs must be
the same to the bit. What is done and the verdict are printed; the exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kill_points
import yaml
from kill_points import contents

from aplt.common.service import ROLES, Role, is_alive, process_exists, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy.config import load_config
from aplt.deploy.runs import open_store
from aplt.deploy.synthetic import make_clips

PATIENCE_S = 300.0
POLL_S = 0.01


class Foreground:
    """Services as processes of ours, which somebody has to start again."""

    def __init__(self, config: Path, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._processes: dict[Role, Any] = {}
        self.pids: list[int] = []

    def start(self, role: Role) -> None:
        """Start a service, or start it again."""
        log = self._folder / f"{role}-{len(self.pids):03d}.log"
        self._processes[role] = kill_points.start(role, self._config, log)
        self.pids.append(self._processes[role].pid)

    def pid(self, role: Role) -> int | None:
        """The process of a service at work; RunError if it ended other than well."""
        process = self._processes[role]
        if process.exitcode not in (None, 0, -signal.SIGKILL):
            raise SystemExit(f"FAILED: the {role} ended with {process.exitcode}; see {self._folder}/{role}-*.log")
        return process.pid if process.exitcode is None else None

    def kill(self, role: Role) -> None:
        """SIGKILL; returns when the process is gone."""
        self._processes[role].kill()
        self._processes[role].join()

    def refuses_a_second(self, role: Role) -> bool:
        """Whether a second service of a role says that there is one and ends."""
        log = self._folder / f"{role}-second-{time.monotonic()}.log"
        process = kill_points.start(role, self._config, log)
        process.join()
        return process.exitcode == 1 and f"has a {role} already" in log.read_text()

    def close(self) -> None:
        """Leave nothing behind."""
        for role in self._processes:
            self.kill(role)


class OnRay:
    """Services as Ray actors, which Ray starts again."""

    def __init__(self, config: Path, store: ArtifactStore) -> None:
        self._store = store
        self.pids: list[int] = []
        subprocess.run([sys.executable, "-m", "aplt.deploy.cli", "launch", "-c", config, "--detach"], check=True)

    def start(self, role: Role) -> None:
        """Wait until Ray has started a service again."""
        before = len(self.pids)
        wait_until(lambda: self.pid(role) is not None and len(self.pids) > before)

    def pid(self, role: Role) -> int | None:
        """The process of a service at work."""
        status = read_status(self._store, role)
        if status is None or status.ended or not is_alive(status):
            return None
        if status.pid not in self.pids:
            self.pids.append(status.pid)
        return status.pid

    def kill(self, role: Role) -> None:
        """SIGKILL; returns when the process is gone."""
        status, pid = read_status(self._store, role), self.pid(role)
        if status is not None and pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_alive(status))

    def refuses_a_second(self, role: Role) -> bool:
        """Not asked of Ray, which starts one actor of a name."""
        return True

    def close(self) -> None:
        """End the cluster."""
        cluster = self._store.read_json("services/cluster.json")
        if cluster is not None and process_exists(cluster):
            os.kill(cluster["pid"], signal.SIGTERM)
            wait_until(lambda: not process_exists(cluster))


class Soak:
    """One run under attack."""

    def __init__(
        self, services: Foreground | OnRay, store: ArtifactStore, *, kills: int, seed: int, epoch_s: float
    ) -> None:
        self._services, self._store = services, store
        self._epoch_s = epoch_s
        self._draw = random.Random(seed)
        self._start = time.monotonic()
        self._wanted = kills
        self.kills = self.pauses = self.refused = 0

    def attack(self) -> None:
        """Kill and pause until there were kills enough; each after the run has got one epoch further."""
        for role in ROLES:
            self._services.start(role)
        while self.kills < self._wanted and not self._finished("trainer"):
            self._await_progress()
            time.sleep(self._draw.uniform(0, 1.5 * self._epoch_s))
            targets: Sequence[Role] = self._draw.choice([("trainer",), ("labeler",), ("trainer", "labeler")])
            if self._draw.random() < 0.2:
                self._pause(targets[0])
                continue
            self._kill(targets)
            while self._draw.random() < 0.25:
                time.sleep(self._draw.uniform(0, 1))
                self._kill(targets, "again, right after its restart")

    def finish(self) -> None:
        """Start what is not at work until both services have come to their end."""
        while not all(self._finished(role) for role in ROLES):
            time.sleep(POLL_S)
        self.say("both services are done")

    def say(self, what: str) -> None:
        """Print a line with the time and how far the run is."""
        newest = [max(series.versions(), default=0) for series in (self._store.checkpoints, self._store.labels)]
        print(
            f"{time.monotonic() - self._start:7.1f} s  epoch {newest[0]:3d}  labels v{newest[1]:<3d} {what}", flush=True
        )

    def _await_progress(self) -> None:
        newest = self._store.checkpoints.latest()
        wanted = 1 if newest is None else newest.version + 1
        wait_until(lambda: self._store.checkpoints.exists(wanted) or self._finished("trainer"))

    def _kill(self, roles: Sequence[Role], remark: str = "") -> None:
        said: dict[Role, str] = {}
        for role in roles:
            pid, status = self._services.pid(role), read_status(self._store, role)
            if pid is not None:
                self._services.kill(role)
                self.kills += 1
                said[role] = status.doing if status is not None and status.pid == pid else "before it said anything"
        killed = " and ".join(f"{role} ({doing})" for role, doing in said.items())
        self.say(f"kill {self.kills:3d}  {killed or 'nobody, at its end already'} {remark}")
        time.sleep(self._draw.choice([0.0, 0.0, self._draw.uniform(0, 1)]))
        for role in said:
            self._services.start(role)

    def _pause(self, role: Role) -> None:
        pid, seconds = self._services.pid(role), self._draw.uniform(0.2, 4)
        if pid is None:
            return
        os.kill(pid, signal.SIGSTOP)
        self.say(f"pause     {role} for {seconds:.1f} s")
        try:
            if self._draw.random() < 0.5 and self._store.local_path is not None:
                if not self._services.refuses_a_second(role):
                    raise SystemExit(f"FAILED: a second {role} started while the first was paused")
                self.refused += 1
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
        self.pauses += 1

    def _finished(self, role: Role) -> bool:
        status = read_status(self._store, role)
        if status is not None and status.state == "failed":
            raise SystemExit(f"FAILED: {status.describe()}")
        return self._services.pid(role) is None and status is not None and status.state == "finished"


def main() -> None:
    """Make both runs and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many kills at least (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the choices (default %(default)s)")
    parser.add_argument("--ray", action="store_true", help="as Ray actors, which Ray restarts")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="a setting, as for aplt")
    parser.add_argument("--clips", type=Path, help="made here, or taken from here if they are there already")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sys.exit(soak(Path(name), arguments))


def soak(folder: Path, arguments: argparse.Namespace) -> int:
    """Return the exit code."""
    config = write_config(folder, arguments)
    start = time.monotonic()
    kill_points.run(config, folder, [], "--set", "run=undisturbed")
    epoch_s = (time.monotonic() - start) / load_config(config).plan().total_epochs
    expected = contents(open_store(load_config(config, ["run=undisturbed"])))
    print(f"undisturbed run: {len(expected)} versions", flush=True)

    store = open_store(load_config(config))
    services = OnRay(config, store) if arguments.ray else Foreground(config, folder)
    attacked = Soak(services, store, kills=arguments.kills, seed=arguments.seed, epoch_s=epoch_s)
    try:
        attacked.attack()
        attacked.finish()
    finally:
        services.close()

    print(f"\n{attacked.kills} kills, {attacked.pauses} pauses, {attacked.refused} second services refused meanwhile")
    there = contents(store)
    different = [name for name in expected if there.get(name) != expected[name]]
    labels = store.labels.versions()
    left_over = [pid for pid in services.pids if os.path.exists(f"/proc/{pid}")]
    problems = store.verify()
    garbage = store.gc(grace_s=0)
    checks = {
        f"there were {arguments.kills} kills or more": attacked.kills >= arguments.kills,
        f"all {len(expected)} versions are as undisturbed, to the bit": not different
        and there.keys() == expected.keys(),
        f"label versions are 1 to {len(labels)} without a gap": labels == list(range(1, len(labels) + 1)),
        f"none of {len(services.pids)} processes is left": not left_over,
        "every byte of every version is intact": not problems,
        f"gc removed {len(garbage.keys)} objects of killed writers, and then nothing more": not store.gc(
            grace_s=0
        ).keys,
        "everything is still there after gc": contents(store) == there and not store.verify(),
    }
    for what, holds in checks.items():
        print(f"{'ok    ' if holds else 'FAILED'}  {what}")
    for what in [*different, *left_over, *problems]:
        print(f"  {what}")
    return 0 if all(checks.values()) else 1


def write_config(folder: Path, arguments: argparse.Namespace) -> Path:
    """Write the configuration of a run that lasts for so many kills; returns its path."""
    epochs = 2 * arguments.kills + 10
    clips = arguments.clips or make_clips(folder / "clips", num_clips=64, num_subjects=4, size=48)
    settings: dict[str, Any] = {
        "run": "attacked",
        "store": {"url": str(folder / "runs")},
        "data": {
            "root": str(clips),
            "group_regex": "^(S[0-9]+)_",
            "prepared": str(folder / "prepared"),
            "test": {"rule": "random", "every": 4},
            "labeled": {"ratio": 0.3},
            "num_frames": 4,
            "clip_size": 32,
            "crop_size": 28,
        },
        "model": {"name": "tiny_tsm"},
        "schedule": {"warmup_epochs": 2, "epochs": epochs - 2, "phase_epochs": 2, "lead_epochs": 1},
        "trainer": {"batch_size": 8, "lr": 0.02, "threads": 1, "keep_checkpoints": "all"},
        "labeler": {"threads": 1},
    }
    path = folder / "cfg.yaml"
    path.write_text(yaml.safe_dump(settings))
    path.write_text(yaml.safe_dump(load_config(path, arguments.overrides).model_dump(mode="json")))
    return path


def wait_until(condition: Callable[[], object]) -> None:
    """Return when the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("FAILED: nothing went on for a long time")
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
