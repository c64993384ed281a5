"""The private Ray cluster of a run or grid: its host process, and who may start services in it or end it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aplt.common.service import process_exists
from aplt.common.store import ArtifactStore
from aplt.deploy.config import RunConfig
from aplt.deploy.runs import records_folder

CLUSTER = "services/cluster.json"
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Let the kernel end this process with the thread that started it: nobody else would."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start_host(module: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a host process, to be spoken to by pipes; what it says otherwise is added to `log`.

    It leads a group of its own: Ctrl-C ends the command that watches, not the host, which can end all that it started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )


def cluster_record(store: ArtifactStore) -> dict[str, Any] | None:
    """Return address and host process of the run's last local cluster, and why it ended if it did."""
    return store.read_note(CLUSTER) or None


def local_cluster(store: ArtifactStore) -> str | None:
    """Return the address of the run's own cluster on this machine, if it is there to stay."""
    record = cluster_record(store)
    if record is None or record.get("ended") or not process_exists(record):
        return None
    return str(record["address"])


@contextmanager
def cluster_lock(config: RunConfig, *, wait: bool) -> Iterator[bool]:
    """Hold the right to start services of the run on this machine, or to end its cluster; yields whether it is held.

    The kernel gives it back when its holder dies, however that happens.
    """
    folder = records_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
