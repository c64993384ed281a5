"""The process that holds the Ray cluster of a grid, or a connection to one, and hands out the grid's cells.

`python -m aplt.deploy.benchmark.host` reads one line of JSON from standard input and answers with one line for every
event. It must lead a process group of its own: all of it ends when standard input does, however that happens.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

from aplt.common.errors import ApltError
from aplt.deploy.benchmark.cells import run_cell
from aplt.deploy.cluster import connected, run_side_by_side


def main() -> None:
    """Run all cells."""
    request = json.loads(sys.stdin.readline())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # The command that started this process holds the other end of standard input: with it, or with this process,
    # which the command watches, everything ends, Ray's agents too.
    subprocess.Popen(["sh", "-c", "read _; kill -KILL 0"], stdin=sys.stdin.fileno(), stdout=subprocess.DEVNULL)
    try:
        with connected(request["address"]):
            for event, name, result in run_side_by_side(
                run_cell, request["jobs"], cpus=request["cpus"], gpus=request["gpus"]
            ):
                _say({"event": event, "name": name, **result})
    except ApltError as error:
        _say({"event": "failed", "error": str(error), "exit_code": error.exit_code})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
