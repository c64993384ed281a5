"""A cell of the grid from start to end: both services of its run, then its record. What a Ray task executes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aplt.common.data.prepared import PreparedData
from aplt.common.service import ROLES, Role, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy.benchmark.records import Record, make_record
from aplt.deploy.config import RunConfig
from aplt.deploy.local import die_with_parent
from aplt.deploy.runs import open_store, records_folder

POLL_S = 0.1
GRACE_S = 10.0
"""What the other service is given to end by itself when one has failed."""
LOG_CHARACTERS = 20_000


def run_cell(job: dict[str, Any]) -> Record:
    """Return {"record": ...} of a cell, or {"error": the reason in one line, "log": the end of both logs}.

    A run that was interrupted goes on from what its store holds, and one that is finished gives its record at once.

    Args:
        job: `cell` (see `make_record`) and `config`, as JSON values.
    """
    die_with_parent()  # Ray's worker outlives its raylet by seconds, and with it the services would
    config = RunConfig.model_validate(job["config"])
    store = open_store(config)
    # Logs go on from those of earlier attempts, which may have failed for another reason.
    begins = {role: _size(_log_of(config, role)) for role in ROLES}
    failed = run_services(config)
    if failed is not None:
        said = {role: _tail(_log_of(config, role), begins[role]) for role in ROLES}
        return {"error": _reason(store, failed, said[failed]), "log": "\n".join(said.values())}
    data = PreparedData.open(config.data.folder, config.data.split_name)
    return {"record": make_record(job["cell"], config, store, data)}


def run_services(config: RunConfig) -> Role | None:
    """Run both services in processes of their own; returns the one that failed, None if both are done."""
    services = {role: _start(role, config) for role in ROLES}
    try:
        while any(service.poll() is None for service in services.values()):
            failed = next((role for role, service in services.items() if service.poll()), None)
            if failed is not None:
                return failed
            time.sleep(POLL_S)
        return next((role for role, service in services.items() if service.returncode), None)
    finally:
        for service in services.values():
            service.terminate()
        for service in services.values():
            try:
                service.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()


def _start(role: Role, config: RunConfig) -> subprocess.Popen[bytes]:
    log = _log_of(config, role)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "aplt.deploy.benchmark.service"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    assert process.stdin is not None
    with process.stdin as request:
        request.write(json.dumps({"role": role, "config": config.model_dump(mode="json")}).encode())
    return process


def _reason(store: ArtifactStore, role: Role, log: str) -> str:
    """Return in one line why a service failed: its last error, or the last line of its log."""
    lines = [line for line in log.splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if said:
        return f"the {role}: {said[-1]}"
    status = read_status(store, role)
    doing = "" if status is None else f", {status.doing}"
    return f"the {role} ended{doing}: {lines[-1] if lines else 'it left no word'}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tail(path: Path, begin: int) -> str:
    """Return the end of a log, of what was written after its first `begin` bytes."""
    return path.read_bytes()[begin:].decode("utf-8", errors="replace")[-LOG_CHARACTERS:] if path.is_file() else ""


def _log_of(config: RunConfig, role: Role) -> Path:
    return records_folder(config) / f"{role}.log"
