"""Services that die by SIGKILL at an exact point of their work, each in a real process of its own.

Processes are forked from one that has imported everything, so a start costs a tenth of a second instead of three. In
each, before the product's own command begins, the call at which it is to die is wrapped. The product knows nothing of
this.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal

from aplt.common.objects import Objects
from aplt.common.series import Series
from aplt.common.service import ROLES, Role, RoleClaim
from aplt.common.store import ArtifactStore
from aplt.trainer.methods.aplt import APLT

PATIENCE_S = 240.0
COMMANDS: dict[Role, str] = {"trainer": "train", "labeler": "label"}
CALLS: dict[str, tuple[type, str]] = {
    "put": (Objects, "put"),
    "create": (Objects, "create"),
    "delete": (Objects, "delete"),
    "loss": (APLT, "loss"),
    "waiting": (RoleClaim, "waiting"),
}

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "kill_points",
        *("aplt.deploy.cli", "aplt.deploy.services", "aplt.deploy.prepare"),
        *("aplt.trainer.loop", "aplt.labeler.service", "aplt.labeler.report"),
        "torch._dynamo",  # which the first optimizer imports
    ]
)


@dataclass(frozen=True)
class KillPoint:
    """The `nth` call of `call` whose first argument has `text` in it (a regular expression).

    `torn` leaves what a store on disk leaves of a write that was cut off in the middle. With SIGSTOP for a signal the
    process stays where it is, and goes on when it is told to.
    """

    call: Literal["put", "create", "delete", "loss", "waiting"]
    text: str = ""
    when: Literal["before", "torn", "after"] = "before"
    nth: int = 1
    signal: signal.Signals = signal.SIGKILL


END = None
"""In place of a kill point: the service runs to its end."""

Step = Mapping[Role, Sequence[KillPoint | None]]
"""What happens side by side: each role is started, dies at its first point, is started again, and so on."""


def start(role: Role, config: Path, log: Path, *arguments: str, point: KillPoint | None = None) -> ForkServerProcess:
    """Start `aplt train` or `aplt label` in a process that will die at `point`; its output goes to `log`."""
    command = [COMMANDS[role], str(config), *arguments]
    process = _forks.Process(target=_serve, args=(command, dict(os.environ), log, point))
    process.start()
    return process


def run(config: Path, folder: Path, steps: Sequence[Step] = (), *arguments: str) -> list[int]:
    """Go through the steps and then run both services to the end; returns the process ids there were.

    AssertionError if a service does not reach a point, or does not end well at the end.
    """
    pids = []
    for step in [*steps, {role: [END] for role in ROLES}]:
        points = {role: list(of_role) for role, of_role in step.items()}
        running: dict[Role, tuple[ForkServerProcess, KillPoint | None, Path]] = {}
        deadline = time.monotonic() + PATIENCE_S
        try:
            while running or any(points.values()):
                for role, left in points.items():
                    if left and role not in running:
                        point, log = left.pop(0), folder / f"process-{len(pids)}.log"
                        running[role] = start(role, config, log, *arguments, point=point), point, log
                        pids.append(running[role][0].pid)
                wait([process.sentinel for process, _, _ in running.values()], timeout=PATIENCE_S)
                assert time.monotonic() < deadline, f"still running: {running}"
                for role, (process, point, log) in list(running.items()):
                    if process.exitcode is not None:
                        expected = 0 if point is None else -signal.SIGKILL
                        assert process.exitcode == expected, f"{role}, {point}: {process.exitcode}\n{log.read_text()}"
                        del running[role]
        finally:
            for process, _, _ in running.values():
                process.kill()
                process.join()
    return pids


def contents(store: ArtifactStore) -> dict[str, list[str]]:
    """The digests of all data that training, labelling and evaluating made: equal if equal to the bit."""
    series: list[Series[Any]] = [store.checkpoints, store.features, store.labels, store.evaluations]
    manifests = [one.manifest(version) for one in series for version in one.versions()]
    return {
        f"{manifest.series}/{manifest.version}": sorted(entry.sha256 for entry in manifest.objects.values())
        for manifest in manifests
    }


def _serve(arguments: list[str], environment: dict[str, str], log: Path, point: KillPoint | None) -> None:
    os.environ.update(environment)  # not that of the moment when the first process was forked
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if point is not None:
        _arm(point)
    from aplt.deploy.cli import main

    sys.argv = ["aplt", *arguments]
    main()


def _arm(point: KillPoint) -> None:
    owner, name = CALLS[point.call]
    call: Callable[..., Any] = getattr(owner, name)
    left = [None] * point.nth

    def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
        first = str(arguments[0]) if point.text else ""
        if not left or re.search(point.text, first) is None:
            return call(self, *arguments, **named)
        left.pop()
        if left:
            return call(self, *arguments, **named)
        result = call(self, *arguments, **named) if point.when == "after" else None
        if point.when == "torn":
            staging = self.local_path / f"{first}#1"
            staging.parent.mkdir(parents=True, exist_ok=True)
            staging.write_bytes(arguments[1][: len(arguments[1]) // 2])
        os.kill(os.getpid(), point.signal)
        return result if point.when == "after" else call(self, *arguments, **named)

    setattr(owner, name, wrapped)
