"""Time from SIGKILL of a service to its next published artifact, against the start of its process alone.

    python benchmarks/recovery.py --repeats 3

Made-up clips, a tiny network, endless epochs of a fraction of a second, so that what is measured is the way back and
not the work. Without Ray, this script starts the service again at once; with Ray, Ray does. The start alone is Python
with the service's imports, for Ray after the restart of an actor that does nothing. All are taken in turns.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from aplt.common.service import ROLES, Role, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy import cluster
from aplt.deploy.config import load_config
from aplt.deploy.local import cluster_record
from aplt.deploy.runs import open_store
from aplt.deploy.synthetic import make_clips

ray = cluster.ray
IMPORTS: dict[Role, str] = {
    "trainer": "import aplt.deploy.services, aplt.trainer.loop",
    "labeler": "import aplt.deploy.services, aplt.labeler.service",
}
POLL_S = 0.02


class Empty:
    """An actor that does nothing."""

    def pid(self) -> int:
        """Return its process id."""
        return os.getpid()


def write_config(folder: Path, run: str) -> Path:
    """Write the configuration of a run that does not end."""
    settings = {
        "run": run,
        "store": {"url": str(folder / "runs")},
        "data": {
            "root": str(folder / "clips"),
            "prepared": str(folder / "prepared"),
            "group_regex": "^(S[0-9]+)_",
            "test": {"rule": "random", "every": 4},
            "labeled": {"ratio": 0.3},
            "num_frames": 4,
            "clip_size": 32,
            "crop_size": 28,
        },
        "model": {"name": "tiny_tsm"},
        "schedule": {"warmup_epochs": 2, "epochs": 9000, "phase_epochs": 2},
        "trainer": {"batch_size": 8, "threads": 1, "keep_checkpoints": "needed"},
        "labeler": {"threads": 1},
    }
    path = folder / f"{run}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def aplt(*arguments: str) -> subprocess.Popen[bytes]:
    """Start an aplt command."""
    return subprocess.Popen([sys.executable, "-m", "aplt.deploy.cli", *arguments], stderr=subprocess.DEVNULL)


def seconds_until(condition: Callable[[], bool], since: float) -> float:
    """Return how long after `since` the condition holds."""
    while not condition():
        time.sleep(POLL_S)
    return time.monotonic() - since


def newest(store: ArtifactStore, role: Role) -> int:
    """Return the number of the newest artifact that this role publishes every epoch."""
    return max((store.checkpoints if role == "trainer" else store.evaluations).candidates(), default=0)


def recovery(store: ArtifactStore, role: Role, again: Callable[[], object]) -> float:
    """Kill a service that is at work; return the seconds until its successor publishes."""
    at_work = newest(store, role)
    seconds_until(lambda: newest(store, role) > at_work + 1, 0)
    status = read_status(store, role)
    assert status is not None
    os.kill(status.pid, signal.SIGKILL)
    start, before = time.monotonic(), newest(store, role)
    again()
    return seconds_until(lambda: newest(store, role) > before, start)


def start_alone(role: Role) -> float:
    """Return the seconds that Python takes to start and to import what a service imports."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS[role]], check=True)
    return time.monotonic() - start


def empty_restart() -> float:
    """Return the seconds from SIGKILL of an actor that does nothing to its answer after Ray has restarted it."""
    remote: Any = ray.remote(Empty)
    actor = remote.options(max_restarts=1, max_task_retries=-1, num_cpus=0).remote()
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    start = time.monotonic()
    while ray.get(actor.pid.remote()) == pid:
        time.sleep(POLL_S)
    took = time.monotonic() - start
    ray.kill(actor)
    return took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    times: dict[str, list[float]] = {}

    def note(name: str, took: float) -> None:
        times.setdefault(name, []).append(took)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clips(folder / "clips", num_clips=96, num_subjects=4, size=48, workers=2)
        plain = write_config(folder, "plain")
        store = open_store(load_config(plain))
        commands: dict[Role, str] = {"trainer": "train", "labeler": "label"}
        services = [aplt(commands[role], "--quiet", str(plain)) for role in ROLES]
        for _ in range(args.repeats):
            for role in ROLES:
                note(f"{role}, start alone", start_alone(role))
                note(
                    f"{role}, without Ray",
                    recovery(store, role, lambda role=role: services.append(aplt(commands[role], "-q", str(plain)))),
                )
        for process in services:
            process.kill()
            process.wait()

        on_ray = write_config(folder, "on_ray")
        aplt("launch", "--cluster", str(on_ray), "--detach").wait()
        store = open_store(load_config(on_ray))
        record = cluster_record(store)
        assert record is not None
        with cluster.connected(record["address"]):
            for _ in range(args.repeats):
                for role in ROLES:
                    note(f"{role}, start alone, on Ray", empty_restart() + start_alone(role))
                    note(f"{role}, on Ray", recovery(store, role, lambda: None))
        aplt("stop", "all", f"{folder}/runs/on_ray").wait()

    print(f"{'':30}{'median s':>10}{'fastest s':>11}{'of the start alone':>20}")
    for name, took in times.items():
        role, *_, where = name.split(", ")
        alone = times[f"{role}, start alone" + (", on Ray" if where == "on Ray" else "")]
        ratio = statistics.median(took) / statistics.median(alone)
        print(f"{name:30}{statistics.median(took):10.2f}{min(took):11.2f}{ratio:20.2f}")


if __name__ == "__main__":
    main()
