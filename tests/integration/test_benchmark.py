"""A small real grid on real Ray: killed in the middle and continued, with a method that fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray]
WriteConfig = Callable[..., Path]
Services = Any


PARENT, SESSION = 1, 3  # columns of /proc/PID/stat behind the name


def living(column: int, number: int) -> list[int]:
    """The living processes of a parent, or of a session: the host of a grid leads one, with Ray and all services."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[column]) == number and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_a_grid_that_is_killed_goes_on_and_a_cell_that_fails_says_why(
    services: Services, write_config: WriteConfig, tmp_path: Path
) -> None:
    path, out = write_config(cluster={"trainer": {"cpus": 1}, "labeler": {"cpus": 0}}), tmp_path / "out"
    options = ["--methods", "fixmatch,vat", "--seeds", "0,1", "--ratios", "30", "--budget", "1+1", "--out", str(out)]
    # The perturbation of VAT, which FixMatch has not, is past what a float can hold.
    command = ["benchmark", "table1", str(path), *options, "--set", "method.eps=1e38"]

    first = services.command(*command)
    services.wait_for(lambda: list(out.glob("records/*.json")), first)
    (host,) = living(PARENT, first.pid)
    assert len(living(SESSION, host)) > 3
    services.kill(first)
    services.wait_for(lambda: not living(SESSION, host))
    before = {record: record.stat().st_mtime_ns for record in out.glob("records/*.json")}

    again = services.command(*command)
    assert again.wait(240) == 1
    said = services.said(again)
    assert "error: 2 runs failed;" in said
    assert "Traceback" not in said
    records = sorted(path.name.rpartition("-")[0] for path in out.glob("records/*.json"))
    assert records == ["fixmatch-30-seed0", "fixmatch-30-seed1"]
    assert {record: record.stat().st_mtime_ns for record in before} == before  # not run again
    page = (out / "table1.md").read_text()
    assert "2 of 4 runs are done." in page
    assert page.count("the trainer: the loss of epoch 1 is nan; lower trainer.lr") == 2
    assert (out / "table1.png").exists()
    logs = [path.read_text() for path in out.glob("logs/vat-*.log")]
    assert len(logs) == 2
    assert all("run vat-30-seed" in log for log in logs)
    assert [path.name.rpartition("-")[0] for path in sorted((out / "runs").iterdir())] == [
        "vat-30-seed0",
        "vat-30-seed1",
    ]  # those of finished cells are gone
