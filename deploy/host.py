"""The process that holds a private local Ray cluster for one run: it outlives the command that started it.

`python -m aplt.deploy.host` reads a configuration from standard input, starts Ray and the services in it, says so on
standard output in one line of JSON, and ends, taking Ray with it, when no service is left. Whatever kills it, or any
process of Ray's own, ends the whole cluster within seconds. It must lead a process group of its own.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

from pydantic import JsonValue

from aplt.common.errors import ApltError
from aplt.common.service import ROLES, Role, process_identity, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy.cluster import connected, fallen_part, present_services, start_services
from aplt.deploy.config import RunConfig
from aplt.deploy.local import CLUSTER, cluster_lock
from aplt.deploy.runs import open_store

POLL_S = 0.5
PATIENCE_S = 3.0
"""A service that was stopped to be restarted alone is given so long."""

logger = logging.getLogger(__name__)


def main() -> None:
    """Hold the cluster until the services are over."""
    request = json.loads(sys.stdin.read())
    config = RunConfig.model_validate(request["config"])
    roles: tuple[Role, ...] = tuple(request["roles"])
    store = open_store(config)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Ray's agents outlive their cluster by a minute: all of it ends with this process, also if it is killed.
    subprocess.Popen(["sh", "-c", "read _; kill -KILL 0"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        with connected("local") as address:
            pids = start_services(config, roles)
            record: dict[str, JsonValue] = {"address": address, **process_identity()}
            store.write_json(CLUSTER, record)
            _answer({"address": address, "pids": pids})
            over = threading.Event()
            watch = threading.Thread(target=_watch_ray, args=(store, record, over), daemon=True)
            watch.start()
            try:
                _hold(store, config, record)
            finally:
                over.set()
                watch.join()
    except ApltError as error:
        _answer({"error": str(error)})
        raise SystemExit(error.exit_code) from None


def _hold(store: ArtifactStore, config: RunConfig, record: dict[str, JsonValue]) -> None:
    """Return when no service is left and nobody is starting one; from then on the cluster counts as ended."""
    empty_since = None
    while True:
        time.sleep(POLL_S)
        if present_services(config, ROLES):
            empty_since = None
            continue
        empty_since = empty_since or time.monotonic()
        if time.monotonic() - empty_since < _patience_s(store):
            continue
        with cluster_lock(config, wait=False) as alone:
            if alone and not present_services(config, ROLES):
                store.write_json(CLUSTER, {**record, "ended": "no service was left"})
                return


def _watch_ray(store: ArtifactStore, record: dict[str, JsonValue], over: threading.Event) -> None:
    """End everything as soon as a process of Ray is gone: services would work on, but nobody would restart them."""
    while not over.wait(POLL_S):
        part = fallen_part()
        if part is not None:
            try:
                logger.error("%s of the Ray cluster ended unexpectedly; the run's cluster ends", part)
                store.write_json(CLUSTER, {**record, "ended": f"{part} ended unexpectedly"})
            finally:
                os.killpg(0, signal.SIGKILL)


def _patience_s(store: ArtifactStore) -> float:
    statuses = [read_status(store, role) for role in ROLES]
    all_finished = all(status is not None and status.state == "finished" for status in statuses)
    return 0.0 if all_finished else PATIENCE_S


def _answer(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
    # Whoever started this process may be gone by the next word: from here on there is only the log.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())


if __name__ == "__main__":
    main()
