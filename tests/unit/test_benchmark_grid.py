"""What a grid does with its folder, its records and its runs, also where one of them is not as it should be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aplt.common.errors import DataError, RunError
from aplt.deploy.benchmark import grid
from aplt.deploy.benchmark.command import write_results
from aplt.deploy.benchmark.grid import Folder, run_grid
from aplt.deploy.benchmark.options import chosen_tables
from aplt.deploy.benchmark.plan import Plan
from aplt.deploy.benchmark.records import Cell, Record, find_record, read_records, write_record
from aplt.deploy.config import ClusterConfig
from aplt.deploy.runs import open_store, records_folder

RECORDED = Path(__file__).parents[2] / "benchmarks/results/lips-random/records/fixmatch-10-seed0-e41516db.json"
SUMMARY = json.loads(RECORDED.read_text())["summary"]
Host = Callable[..., None]


def plan_of(folder: Path, *, seed: int = 0, **model: Any) -> Plan:
    return Plan(
        tables=chosen_tables("table1", ["fixmatch"]),
        ratios=(10.0,),
        seeds=(seed,),
        base={"run": "benchmark", "data": {"root": "clips"}, "model": {"name": "tiny_tsm", **model}},
        folder=folder,
        overrides=(),
        out=folder / "out",
    )


def cell_of(folder: Path, **given: Any) -> Cell:
    return plan_of(folder, **given).cells("sha256:clips")[0]


def record_of(cell: Cell) -> Record:
    of_cell = {"row": cell.row, "ratio": cell.ratio, "seed": cell.seed, "data": cell.data, "settings": cell.settings}
    return {**json.loads(RECORDED.read_text()), **of_cell}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Let a process of a few lines stand for the one that holds a cluster: it says `answers` and ends with `code`."""

    def stand_in(*answers: dict[str, Any], code: int = 0) -> None:
        said = "".join(f"{json.dumps(answer)}\n" for answer in answers)
        program = f"import sys; print({said!r}, end='', flush=True); sys.exit({code})"

        def start(_: str, log: Path) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            process.wait()
            return process

        monkeypatch.setattr(grid, "start_host", start)

    return stand_in


def run(cells: list[Cell], folder: Folder, *, keep_runs: bool = False) -> tuple[int, str]:
    """Run a grid; returns how many cells failed, and what people read."""
    said = StringIO()
    return run_grid(cells, ClusterConfig(), folder, Console(file=said, width=400), keep_runs=keep_runs), said.getvalue()


def done(cell: Cell) -> list[dict[str, Any]]:
    return [
        {"event": "started", "name": cell.name},
        {"event": "ended", "name": cell.name, "record": record_of(cell)},
    ]


def test_a_run_that_is_kept_stays_and_one_left_over_by_a_kill_goes(tmp_path: Path, host: Host) -> None:
    folder, kept, left = Folder(tmp_path / "out"), cell_of(tmp_path), cell_of(tmp_path, seed=1)
    for cell in (kept, left):
        open_store(cell.config).write_json("run.json", {})
    host(*done(kept))
    assert run([kept], folder, keep_runs=True)[0] == 0
    write_record(folder.records / f"{left.name}.json", record_of(left))  # and there it was killed
    assert run([kept, left], folder)[0] == 0
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == [kept.name]


def test_where_no_record_can_be_written_the_run_stays_and_the_grid_goes_on(tmp_path: Path, host: Host) -> None:
    folder, first, second = Folder(tmp_path / "out"), cell_of(tmp_path), cell_of(tmp_path, seed=1)
    open_store(first.config).write_json("run.json", {})
    folder.records.write_text("in the way")
    host(*done(first), *done(second))
    failed, said = run([first, second], folder)
    assert failed == 2
    assert f"{first.name} failed: the run is complete, but its record cannot be written: [Errno 17] File exists" in said
    assert (folder.failure_of(first) or "").endswith("Mend that; the run stays until then")
    (folder.path / "table1.md").mkdir()
    with pytest.raises(
        RunError, match=r"the tables cannot be written: \[Errno 21\] Is a directory.*Mend that; with --tab"
    ):
        write_results(plan_of(tmp_path), folder, None)

    folder.records.unlink()
    host(*done(first), *done(second))
    assert run([first, second], folder)[0] == 0
    assert not (tmp_path / "out" / "runs" / first.name).exists()
    assert folder.failure_of(first) is None


def test_a_host_that_dies_at_once_names_its_log(tmp_path: Path, host: Host) -> None:
    host(code=3)
    with pytest.raises(RunError, match=r"holds the grid's cluster ended with code 3 \(its log: .*logs/host\.log\)"):
        run([cell_of(tmp_path)], Folder(tmp_path / "out"))


def test_a_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    for path in (tmp_path / "out", tmp_path / "out" / "below"):
        message = rf"--out {path} cannot be used as a folder \(.*\): choose another one"
        with pytest.raises(RunError, match=message), Folder(path).locked():
            pass


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 2}, "schema: Input should be 1"),
        ({"wall_s": None}, "wall_s: Input should be a valid number"),
        ({"settings": []}, "settings: Input should be a valid dictionary"),
        ({"summary": {}}, "summary.classes: Field required"),
        ({"by_epoch": {}}, "by_epoch has no labels/kept_share"),
        (
            {"summary": SUMMARY | {"final_by_class": [{"class": "nod"}]}},
            "summary.final_by_class has no accuracy of head",
        ),
        ({"tested": "student"}, "summary.final has no accuracy of student"),
    ],
)
def test_a_record_has_what_tables_read(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = tmp_path / "one.json"
    write_record(path, record_of(cell_of(tmp_path)))
    assert len(read_records(tmp_path)) == 1
    write_record(path, record_of(cell_of(tmp_path)) | change)
    with pytest.raises(DataError) as caught:
        read_records(tmp_path)
    assert f"{path} is not a record of `aplt benchmark` of this version ({why}" in str(caught.value)
    assert str(caught.value).endswith("): remove it or move it away")


def test_what_is_no_file_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(DataError, match=r"x\.json is not a record .*Is a directory.*: remove it or move it away"):
        read_records(tmp_path)
    (tmp_path / "x.json").rmdir()
    (tmp_path / "x.json").write_text('{"schema": 1}')
    with pytest.raises(DataError, match="Field required"):
        read_records(tmp_path)


def test_weights_count_by_what_is_in_them(tmp_path: Path) -> None:
    for name, content in (("one.pt", b"weights"), ("same.pt", b"weights"), ("other.pt", b"others!")):
        (tmp_path / name).write_bytes(content)
    record = record_of(cell_of(tmp_path, init="one.pt"))
    assert record["settings"]["model.init"].startswith("sha256:")
    found = {init: find_record(cell_of(tmp_path, init=init), [record]) for init in ("one.pt", "same.pt", "other.pt")}
    assert [init for init, one in found.items() if one is not None] == ["one.pt", "same.pt"]
    (tmp_path / "same.pt").unlink()
    assert find_record(cell_of(tmp_path, init="same.pt"), [record]) is None


def test_a_cell_that_fails_again_says_why_it_failed_this_time(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    services = tmp_path / "services"
    services.write_text(f"#!/bin/sh\ncat > /dev/null\ncat {tmp_path}/says >&2\nexit 1\n")
    services.chmod(0o755)
    program = "import json, sys; from aplt.deploy.benchmark.cells import run_cell; "
    program += "sys.executable = sys.argv[1]; print(json.dumps(run_cell(json.load(sys.stdin))))"

    def attempt(said: str) -> dict[str, Any]:
        (tmp_path / "says").write_text(said)
        job = json.dumps({"cell": {}, "config": cell.config.model_dump(mode="json")})
        command = [sys.executable, "-c", program, str(services)]
        answer: dict[str, Any] = json.loads(subprocess.run(command, input=job, text=True, stdout=-1, check=True).stdout)
        return answer

    assert attempt("loading\nerror: no room\n")["error"] == "the trainer: no room"
    again = attempt("loading\nSegmentation fault\n")
    assert again["error"] == "the trainer ended: Segmentation fault"
    assert "no room" not in again["log"]
    assert "no room" in (records_folder(cell.config) / "trainer.log").read_text()  # the run's own log has all of it
