"""What makes a process *the* trainer or *the* labeler of a run: a claim, a heartbeat, and a way to be asked to stop.

Everything goes through the store, so it works wherever the processes run:

- `services/<role>/claims/000003.json` is created, never overwritten: it names the third process that took the role.
- `services/<role>/status.json` is overwritten every few seconds by the holder of the newest claim.
- `services/<role>/stop.json` asks the holder of one claim to stop.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue

from aplt.common.errors import ApltError, RunError, StoreError
from aplt.common.store import ArtifactStore

logger = logging.getLogger(__name__)

Role = Literal["trainer", "labeler"]
ROLES: tuple[Role, ...] = ("trainer", "labeler")
State = Literal["working", "waiting", "finished", "stopped", "failed"]
BEAT_S = 2.0
LEASE_S = 15.0
"""A holder on another machine whose heartbeat stands still for so long is taken for dead."""


class StopRequestedError(ApltError):
    """Somebody asked this service to stop."""


class Status(BaseModel):
    """What a service last said about itself."""

    model_config = ConfigDict(frozen=True)

    role: Role
    claim: int
    host: str
    boot: str
    pid: int
    pid_started: str
    state: State
    doing: str = ""
    done: float = 0.0
    """Finished share of the whole run, 0 to 1."""
    ticks: int = 0
    """Grows with real work, not with time: a hung service stops ticking while its heartbeat goes on."""
    beat: int = 0
    updated_at: datetime

    @property
    def ended(self) -> bool:
        """Whether the service said goodbye."""
        return self.state in ("finished", "stopped", "failed")

    def describe(self) -> str:
        """One line for people: what it did when it was last heard of."""
        age_s = max(0.0, (datetime.now(UTC) - self.updated_at).total_seconds())
        who = f"{self.role} (pid {self.pid} on {self.host})"
        return f"{who} was last heard of {age_s:.0f} s ago, {self.state}: {self.doing}"


def read_status(store: ArtifactStore, role: Role) -> Status | None:
    """Return what the newest holder of `role` last said, or None if nobody ever held it."""
    value = store.read_json(f"services/{role}/status.json")
    return None if value is None else Status.model_validate(value)


def describe_role(store: ArtifactStore, role: Role) -> str:
    """Return one line on who holds `role` and what they did last."""
    status = read_status(store, role)
    return f"No {role} was ever started for this run" if status is None else status.describe()


def progress_of(store: ArtifactStore, role: Role) -> tuple[int, int] | None:
    """Return something that changes whenever `role` gets work done."""
    status = read_status(store, role)
    return None if status is None else (status.claim, status.ticks)


def is_alive(status: Status) -> bool | None:
    """Whether the process still exists; None if it cannot be told from this machine."""
    return process_exists(status.model_dump())


def process_identity() -> dict[str, Any]:
    """Return what tells this process from every other one, on this machine and elsewhere."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot_id(), "pid": pid, "pid_started": _started_at(pid)}


def process_exists(identity: Mapping[str, Any]) -> bool | None:
    """Whether the process that gave this identity still exists; None if it cannot be told from this machine."""
    if identity["boot"] != _boot_id():
        return None
    return _started_at(int(identity["pid"])) == str(identity["pid_started"])


def request_stop(store: ArtifactStore, role: Role) -> Status | None:
    """Ask the holder of `role` to stop; returns whom was asked, None if nobody is at work."""
    status = read_status(store, role)
    if status is None or status.ended or is_alive(status) is False:
        return None
    store.write_json(f"services/{role}/stop.json", {"claim": status.claim})
    return status


def record_spans(store: ArtifactStore, role: Role, spans: list[JsonValue]) -> None:
    """Add spans of time to those that earlier processes of this role left in the store."""
    name = f"services/{role}/spans.json"
    earlier = (store.read_json(name) or {"spans": []})["spans"]
    store.write_json(name, {"spans": [*earlier, *spans]})


class RoleClaim:
    """The right to act as one role of one run, held for the time of a `with` block.

    Raises:
        RunError: another process holds the role and is alive.
    """

    def __init__(
        self, store: ArtifactStore, role: Role, *, lease_s: float = LEASE_S, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._store = store
        self._role = role
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._superseded = False
        self._stop_requested = False
        number = self._newest_claim()
        if number:
            self._refuse_if_held(number, lease_s, sleep)
        me = process_identity()
        if not store.create_json(f"services/{role}/claims/{number + 1:06d}.json", me):
            raise RunError(f"another {role} of run {store.run} was started at the same moment; this one stops")
        self._status = Status.model_validate(
            {
                "role": role,
                "claim": number + 1,
                "state": "working",
                "doing": "starting",
                "updated_at": datetime.now(UTC),
                **me,
            }
        )
        self._write()
        self._thread = threading.Thread(target=self._beat, name=f"{role}-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._superseded:
            return  # the status is the successor's now
        if error is None:
            self._change(state="finished", done=1.0)
        elif isinstance(error, StopRequestedError | KeyboardInterrupt):
            self._change(state="stopped", doing="on request")
        else:
            self._change(state="failed", doing=f"{type(error).__name__}: {error}")
        self._write()

    @property
    def number(self) -> int:
        """How many processes held this role so far, this one included."""
        return self._status.claim

    def working(self, doing: str, done: float | None = None) -> None:
        """Say what is being done, and how much of the run is finished."""
        self._change(state="working", doing=doing, done=self._status.done if done is None else done)

    def waiting(self, what: str) -> None:
        """Say that this service waits for the other one."""
        self._change(state="waiting", doing=what)
        self._write()

    def tick(self) -> None:
        """Note that work was done, and end here if this service is to end.

        Raises:
            StopRequestedError: somebody asked for it.
            RunError: another process took over the role, because this one looked dead.
        """
        self._change(ticks=self._status.ticks + 1)
        self.check()

    def check(self) -> None:
        """Like `tick`, without having done any work."""
        if self._superseded:
            raise RunError(
                f"another {self._role} of run {self._store.run} took over while this one was not responding; "
                "this one stops"
            )
        if self._stop_requested:
            raise StopRequestedError(f"the {self._role} of run {self._store.run} was asked to stop")

    def _change(self, **values: object) -> None:
        with self._lock:
            self._status = self._status.model_copy(update=values)

    def _write(self) -> None:
        with self._lock:
            self._status = self._status.model_copy(
                update={"beat": self._status.beat + 1, "updated_at": datetime.now(UTC)}
            )
            status = self._status
        self._store.write_json(f"services/{self._role}/status.json", status.model_dump(mode="json"))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                if self._newest_claim() > self._status.claim:
                    self._superseded = True
                    return
                stop = self._store.read_json(f"services/{self._role}/stop.json")
                self._stop_requested = stop is not None and stop.get("claim") == self._status.claim
                self._write()
            except StoreError as error:
                logger.warning("heartbeat of the %s failed, trying again: %s", self._role, error)

    def _newest_claim(self) -> int:
        names = self._store.list_names(f"services/{self._role}/claims")
        return max((int(Path(name).stem) for name in names), default=0)

    def _refuse_if_held(self, number: int, lease_s: float, sleep: Callable[[float], None]) -> None:
        holder = self._holder(number)
        if holder is None or holder.ended:
            return
        alive = is_alive(holder)
        if alive is None:
            first = holder.beat
            sleep(lease_s)
            later = self._holder(number)
            alive = later is not None and not later.ended and later.beat != first
        if alive:
            raise RunError(
                f"run {self._store.run} has a {self._role} already: {holder.describe()}. "
                f"Stop it with `aplt stop {self._role}` first, or leave it working"
            )

    def _holder(self, number: int) -> Status | None:
        status = read_status(self._store, self._role)
        if status is not None and status.claim == number:
            return status
        # It claimed the role and has not written its first status yet (or died before it could).
        claim = self._store.read_json(f"services/{self._role}/claims/{number:06d}.json")
        if claim is None:
            return None
        return Status.model_validate(
            {"role": self._role, "claim": number, "state": "working", "updated_at": datetime.now(UTC), **claim}
        )


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else socket.gethostname()


def _started_at(pid: int) -> str:
    """Return something that tells this process from another with the same number; empty if there is none."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        fields = stat.read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
