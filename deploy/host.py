"""The process that holds a private local Ray cluster for one run: it outlives the command that started it.

`python -m aplt.deploy.host` reads a configuration from standard input, starts Ray and the services in it, says so on
standard output in one line of JSON, and ends, taking Ray with it, when no service is left.
"""

from __future__ import annotations

import json
import os
import sys
import time

from aplt.common.errors import ApltError
from aplt.common.service import ROLES, Role, process_identity, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy.cluster import connected, present_services, start_services
from aplt.deploy.config import RunConfig
from aplt.deploy.runs import open_store

CLUSTER = "services/cluster.json"
POLL_S = 0.5


def main() -> None:
    """Hold the cluster until the services are over."""
    request = json.loads(sys.stdin.read())
    config = RunConfig.model_validate(request["config"])
    roles: tuple[Role, ...] = tuple(request["roles"])
    store = open_store(config)
    try:
        with connected("local") as address:
            pids = start_services(config, roles)
            store.write_json(CLUSTER, {"address": address, **process_identity()})
            _answer({"address": address, "pids": pids})
            _hold(store, config)
    except ApltError as error:
        _answer({"error": str(error)})
        raise SystemExit(error.exit_code) from None


def _hold(store: ArtifactStore, config: RunConfig) -> None:
    """Return when no service is left; a service that was stopped to be restarted is given a moment."""
    empty_since = None
    while empty_since is None or time.monotonic() - empty_since < _patience_s(store):
        time.sleep(POLL_S)
        if present_services(config, ROLES):
            empty_since = None
        elif empty_since is None:
            empty_since = time.monotonic()


def _patience_s(store: ArtifactStore) -> float:
    statuses = [read_status(store, role) for role in ROLES]
    all_finished = all(status is not None and status.state == "finished" for status in statuses)
    return 0.0 if all_finished else 3.0


def _answer(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
    # Whoever started this process may be gone by the next word: from here on there is only the log.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())


if __name__ == "__main__":
    main()
