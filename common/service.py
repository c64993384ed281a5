"""What makes a process *the* trainer or *the* labeler of a run: a claim, a heartbeat, and a way to be asked to stop.

Everything goes through the store, so it works wherever the processes run:

- `services/<role>/claims/000003.json` names the third process that took the role, and what it does. Of several that
  want to create it one wins; from then on that process alone overwrites it, every few seconds.
- `services/<role>/spans/000003-000000.json` says where the time of that process went.
- `services/<role>/stop.json` asks the holder of one claim to stop.

A process that was taken for dead and wakes up finds a newer claim within a heartbeat. Until then it can write only
under names of its own (here) or where the first one wins (versions), so it harms nobody.
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

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from aplt.common.errors import BUG, ApltError, RunError, StoreError
from aplt.common.store import ArtifactStore

logger = logging.getLogger(__name__)

Role = Literal["trainer", "labeler"]
ROLES: tuple[Role, ...] = ("trainer", "labeler")
State = Literal["working", "waiting", "finished", "stopped", "failed"]
BEAT_S = 2.0
LEASE_S = 15.0
"""A holder on another machine whose heartbeat stands still for so long is taken for dead."""
SPANS_PER_OBJECT = 256


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
    exit_code: int = 0
    """What a command that watches this service ends with, should the service have failed."""
    updated_at: datetime

    @property
    def ended(self) -> bool:
        """Whether the service said goodbye."""
        return self.state in ("finished", "stopped", "failed")

    @property
    def silent_s(self) -> float:
        """Seconds since it was last heard of, by the clocks of two machines: good for people, not for decisions."""
        return max(0.0, (datetime.now(UTC) - self.updated_at).total_seconds())

    @property
    def fate(self) -> str:
        """Its state in a word: `died` without a goodbye, `paused` by a signal, or what it said itself."""
        alive = is_alive(self)
        if self.ended or alive is None:
            return self.state
        if not alive:
            return "died"
        return "paused" if _stat(self.pid)[0] in ("T", "t") else self.state

    def describe(self) -> str:
        """One line for people: what it did when it was last heard of, and what became of it."""
        line = (
            f"{self.role} (pid {self.pid} on {self.host}) was last heard of {self.silent_s:.0f} s ago, "
            f"{self.state}: {self.doing}"
        )
        what = {"died": "the process is gone", "paused": f"it is paused, kill -CONT {self.pid} lets it go on"}
        return f"{line}; {what[self.fate]}" if self.fate in what else line


def read_status(store: ArtifactStore, role: Role) -> Status | None:
    """Return what the newest holder of `role` last said, or None if nobody ever held it."""
    return _read_claim(store, role, _newest_claim(store, role))


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


def read_spans(store: ArtifactStore, role: Role) -> list[dict[str, Any]]:
    """Return the spans of time that all processes of `role` recorded, in order."""
    values = (store.read_note(name) for name in sorted(store.list_names(f"services/{role}/spans")))
    return [span for value in values for span in value.get("spans", [])]


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
        self._spans: list[JsonValue] = []
        self._num_span_objects = 0
        number = _newest_claim(store, role)
        if number:
            self._refuse_if_held(number, lease_s, sleep)
        self._status = Status.model_validate(
            {
                "role": role,
                "claim": number + 1,
                "state": "working",
                "doing": "starting",
                "updated_at": datetime.now(UTC),
                **process_identity(),
            }
        )
        if not store.create_json(_claim_name(role, number + 1), self._status.model_dump(mode="json")):
            raise RunError(f"another {role} of run {store.run} was started at the same moment; this one stops")
        self._thread = threading.Thread(target=self._beat, name=f"{role}-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            self._change(state="finished", done=1.0)
        elif isinstance(error, StopRequestedError | KeyboardInterrupt):
            self._change(state="stopped", doing="on request")
        else:
            code = error.exit_code if isinstance(error, ApltError) else BUG
            self._change(state="failed", doing=f"{type(error).__name__}: {error}", exit_code=code)
        try:
            self._write(self._store if error is None else self._store.with_patience(0))
        except StoreError as second:
            if error is None:
                raise
            logger.warning("could not leave a last word: %s", second)  # what stopped the service matters more

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
        self._write(self._store)

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

    def record_spans(self, spans: list[JsonValue]) -> None:
        """Keep spans of time in the store, some hundred to an object, so that a long run writes each a few times."""
        if not spans:
            return
        self._spans += spans
        name = f"services/{self._role}/spans/{self.number:06d}-{self._num_span_objects:06d}.json"
        self._store.write_json(name, {"spans": self._spans})
        if len(self._spans) >= SPANS_PER_OBJECT:
            self._spans = []
            self._num_span_objects += 1

    def _change(self, **values: object) -> None:
        with self._lock:
            self._status = self._status.model_copy(update=values)

    def _write(self, store: ArtifactStore) -> None:
        with self._lock:
            self._status = self._status.model_copy(
                update={"beat": self._status.beat + 1, "updated_at": datetime.now(UTC)}
            )
            status = self._status
        store.write_json(_claim_name(self._role, status.claim), status.model_dump(mode="json"))

    def _beat(self) -> None:
        hasty = self._store.with_patience(0)  # the next beat is soon, and the end does not wait for this one
        while not self._ended.wait(BEAT_S):
            try:
                if _newest_claim(hasty, self._role) > self._status.claim:
                    self._superseded = True
                    return
                stop = hasty.read_note(f"services/{self._role}/stop.json")
                self._stop_requested = stop.get("claim") == self._status.claim
                self._write(hasty)
            except StoreError as error:
                logger.warning("heartbeat of the %s failed, trying again: %s", self._role, error)

    def _refuse_if_held(self, number: int, lease_s: float, sleep: Callable[[float], None]) -> None:
        holder = _read_claim(self._store, self._role, number)
        alive = None if holder is None else not holder.ended and is_alive(holder)
        if alive is None:  # on another machine, or its claim is damaged: a heartbeat tells, and mends the claim
            first = None if holder is None else holder.beat
            sleep(lease_s)
            holder = _read_claim(self._store, self._role, number)
            alive = holder is not None and not holder.ended and holder.beat != first
        if holder is not None and alive:
            raise RunError(
                f"run {self._store.run} has a {self._role} already: {holder.describe()}. "
                f"Stop it with `aplt stop {self._role}` first, or leave it working"
            )


def _claim_name(role: Role, number: int) -> str:
    return f"services/{role}/claims/{number:06d}.json"


def _newest_claim(store: ArtifactStore, role: Role) -> int:
    stems = (Path(name).stem for name in store.list_names(f"services/{role}/claims"))
    return max((int(stem) for stem in stems if stem.isdecimal()), default=0)


def _read_claim(store: ArtifactStore, role: Role, number: int) -> Status | None:
    """Return what a claim says; None if it is damaged, which its holder mends with the next heartbeat."""
    try:
        return Status.model_validate(store.read_note(_claim_name(role, number)))
    except ValidationError:
        return None


def _boot_id() -> str:
    """Return what names this machine since it started, and the table in which it counts processes: containers on one
    machine each have their own."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return f"{path.read_text().strip()} {os.readlink('/proc/self/ns/pid')}" if path.exists() else socket.gethostname()


def _started_at(pid: int) -> str:
    """Return something that tells this process from another with the same number; empty if there is none."""
    state, started_at = _stat(pid)
    return "" if state == "Z" else started_at


def _stat(pid: int) -> tuple[str, str]:
    """Return state and start of a process on this machine, both empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", ""
    return fields[0], fields[19]
