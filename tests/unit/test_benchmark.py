"""The benchmark without running anything: its grid, its records, its statistics, tables and pictures."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from aplt.common.drawing import WIDTH
from aplt.common.errors import ConfigError, DataError, RunError
from aplt.deploy.benchmark.command import recorded_digest, write_results
from aplt.deploy.benchmark.grid import Folder
from aplt.deploy.benchmark.options import base_settings, budget_overrides, chosen_ratios, chosen_seeds, chosen_tables
from aplt.deploy.benchmark.pictures import class_gains, class_gains_picture, pseudo_label_picture, table_picture
from aplt.deploy.benchmark.plan import Plan, configured_ratio
from aplt.deploy.benchmark.progress import progress_on
from aplt.deploy.benchmark.records import Cell, Record, confusion, find_record, read_records, write_record
from aplt.deploy.benchmark.rows import TABLES, published
from aplt.deploy.benchmark.statistics import paired_difference, spread, t_quantile
from aplt.deploy.benchmark.tables import Outcome, csv_text, markdown, outcome_of, seeds_csv_text

SETTINGS: dict[str, Any] = {
    "data": {"root": "clips", "prepared": "prepared"},
    "model": {"name": "tiny_tsm"},
    "cluster": {"trainer": {"cpus": 3}, "labeler": {"cpus": 0}},
}


def plan_of(folder: Path, table: str, *methods: str, overrides: tuple[str, ...] = (), **settings: Any) -> Plan:
    return Plan(
        tables=chosen_tables(table, methods or None),
        ratios=(10.0,),
        seeds=(0, 1, 2),
        base={"run": "benchmark", **SETTINGS, **settings},
        folder=folder,
        overrides=overrides,
        out=folder / "out",
    )


def record_of(cell: Cell, accuracy: float) -> Record:
    """A record as a run of this cell would leave it, with what tables and pictures read."""
    heads = {"head": {"accuracy": accuracy, "macro": accuracy - 0.01}}
    tested = cell.config.method.tested_head
    classes = ["nod", "wave"]
    return {
        "schema": 1,
        "row": cell.row,
        "ratio": cell.ratio,
        "seed": cell.seed,
        "data": cell.data or "sha256:clips",
        "settings": cell.settings,
        "tested": tested,
        "code_version": "1.2.3",
        "hardware": "one core",
        "wall_s": 90.0 + cell.seed,
        "clips_seen": {"labelled": 1000, "unlabelled": 2000},
        "summary": {
            "final": {tested: heads["head"]},
            "clips": {"labelled": 10, "unlabelled": 90, "test": 50},
            "classes": classes,
            "epochs": 55,
            "final_by_class": [
                {"class": name, tested: accuracy + 0.1 * i * (cell.row == "aplt")} for i, name in enumerate(classes)
            ],
        },
        "by_epoch": {
            "online/precision": {"1": 0.8, "2": 0.7},
            "online/passed_share": {"1": 0.1, "2": 0.5},
            "labels/precision": {"2": 0.9} if tested == "prototypes" else {},
            "labels/kept_share": {"2": 0.4} if tested == "prototypes" else {},
        },
    }


def outcome_with(plan: Plan, folder: Folder, records: list[Record]) -> Outcome:
    return outcome_of(
        plan.tables[0],
        plan.ratios,
        plan.seeds,
        cell_of=lambda row, ratio, seed: plan.cell(row, ratio, seed, None),
        records=records,
        failure_of=folder.failure_of,
        said=plan.overrides,
    )


def test_intervals_are_those_of_student() -> None:
    quantiles = [t_quantile(degrees) for degrees in (1, 2, 3, 4, 9, 30, 120)]
    assert quantiles == pytest.approx([12.7062, 4.3027, 3.1824, 2.7764, 2.2622, 2.0423, 1.9799], abs=5e-5)
    found = spread([1.0, 2.0, 6.0])
    assert found is not None
    assert (found.mean, found.deviation) == (3.0, pytest.approx(7**0.5))
    assert spread([]) is None
    # Differences 1, 2, 6 of the seeds in common: 3 +- 4.3027 * sqrt(7 / 3).
    difference = paired_difference({0: 11.0, 1: 22.0, 2: 36.0, 7: 0.0}, {2: 30.0, 1: 20.0, 0: 10.0, 9: 5.0})
    assert difference is not None
    assert (difference.mean, difference.n) == (3.0, 3)
    assert difference.interval == pytest.approx((3 - 6.5725, 3 + 6.5725), abs=1e-3)
    one = paired_difference({4: 3.0}, {4: 1.0})
    assert one is not None
    assert (one.mean, one.interval) == (2.0, (None, None))
    assert paired_difference({4: 3.0}, {5: 1.0}) is None


def test_every_row_of_the_paper_is_a_row_here_and_a_valid_run(tmp_path: Path) -> None:
    for table in TABLES.values():
        known = {number.method for number in published() if number.table == table.number}
        assert {row.published for row in table.rows} - {None} == known
    cells = {cell.row: cell.config for cell in plan_of(tmp_path, "all").cells("d") if cell.seed == 1}
    assert len(cells) == len({row.name for table in TABLES.values() for row in table.rows})
    assert cells["variant-2"].plan().total_epochs == cells["aplt"].plan().total_epochs
    assert [phase.version for phase in cells["variant-2"].plan().phases] == [1]  # prototypes for the test alone
    assert {config.seed for config in cells.values()} == {config.data.split_seed for config in cells.values()} == {1}
    assert {config.trainer.threads for config in cells.values()} == {3}
    assert {config.labeler.threads for config in cells.values()} == {1}


def test_a_budget_keeps_four_phases_and_a_ratio_needs_a_rule_that_takes_one(tmp_path: Path) -> None:
    assert budget_overrides("15+40")[-1] == "schedule.phase_epochs=10"
    assert budget_overrides("5+14")[-1] == "schedule.phase_epochs=4"
    data = {**SETTINGS["data"], "labeled": {"rule": "usb_balanced", "total": 40}}
    (cell, *_) = plan_of(tmp_path, "table1", "fixmatch", data=data).cells(None)
    assert (cell.config.data.labeled.rule, cell.config.data.labeled.ratio) == ("per_class", 0.1)
    with pytest.raises(ConfigError, match=r"--budget 15: expected WARM-UP\+EPOCHS"):
        budget_overrides("15")
    assert chosen_ratios("10, 2.5,10") == (10.0, 2.5)
    assert chosen_seeds("2, 0,2") == (2, 0)
    for text in ("", "a", "-1", "0,0.5"):
        with pytest.raises(ConfigError, match="--seeds"):
            chosen_seeds(text)


def test_settings_of_a_method_are_for_that_method_alone(tmp_path: Path) -> None:
    method = {"name": "aplt", "tau": 0.6, "temperature": 0.5}
    cells = plan_of(
        tmp_path, "table1", "fixmatch", "aplt", "uda", method=method, overrides=("method.lambda_u=2",)
    ).cells(None)
    config = {cell.row: cell.config.method.model_dump() for cell in cells}
    assert [config[name]["tau"] for name in ("aplt", "fixmatch", "uda")] == [0.6, 0.95, 0.8]
    assert [config[name]["lambda_u"] for name in config] == [2, 2, 2]  # said on the command line, of all


def test_a_method_of_another_table_keeps_its_label() -> None:
    (table,) = chosen_tables("table1", ["aplt", "tcl", "cmpl"])
    assert [row.label for row in table.rows] == ["APLT", "TCL", "cmpl"]


def test_a_row_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (table,) = chosen_tables("table2", ["aplt", "cmpl"])
    assert [row.name for row in table.rows] == ["aplt", "cmpl"]
    with pytest.raises(ConfigError, match="--methods fixmach: no row of table1 and no method, did you mean fixmatch"):
        chosen_tables("table1", ["fixmach"])
    with pytest.raises(ConfigError, match="'table9' is no table; there are table1, "):
        chosen_tables("table9", None)
    with pytest.raises(ConfigError, match="needs a configuration file, or --data"):
        base_settings(None, None, tmp_path)


def test_a_split_by_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.split names one split \(mine\)"):
        plan_of(tmp_path, "table1", data={**SETTINGS["data"], "split": "mine"}).cells(None)


def test_a_record_counts_for_the_cells_that_compute_the_same(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "table1", "fixmatch", "aplt")
    cells = plan.cells("sha256:clips")
    write_record(tmp_path / "records" / "elsewhere.json", record_of(cells[0], 0.5))
    records = read_records(tmp_path / "records")
    assert [find_record(cell, records) is not None for cell in cells] == [True] + 5 * [False]

    def counts(row: str, *overrides: str, data: str | None = "sha256:clips", **settings: Any) -> bool:
        other = plan_of(tmp_path / "other", "table4", row, overrides=overrides, **settings).cells(data)[0]
        return find_record(other, records) is not None

    assert counts("fixmatch")  # the same run in another table, folder and order
    assert counts("fixmatch", data=None)
    assert counts("fixmatch", "labeler.sat_scale=2", "features.normalize=none")  # which FixMatch never looks at
    assert counts("fixmatch", cluster={"trainer": {"cpus": 1}})
    assert not counts("fixmatch", "trainer.lr=0.1")
    assert not counts("fixmatch-asy")
    assert not counts("fixmatch", data="sha256:others")

    del records[0]["settings"]["method.tau"]  # of a version of aplt that had no such setting yet
    assert counts("fixmatch")
    assert not counts("fixmatch", "method.tau=0.9")
    records[0]["settings"]["trainer.gone"] = 1
    assert not counts("fixmatch")


def test_what_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"schema": 1, ')
    with pytest.raises(DataError, match=r"half\.json is not a record of `aplt benchmark`"):
        read_records(tmp_path)


def test_the_table_says_means_differences_failures_and_what_the_paper_has(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path, "table1", "supervised", "fixmatch", "aplt"), Folder(tmp_path / "out")
    accuracies = {"fixmatch": (0.40, 0.44, 0.48), "aplt": (0.42, 0.48, 0.54), "supervised": (0.30, 0.31, None)}
    records = []
    for cell in plan.cells(None):
        accuracy = accuracies[cell.row][cell.seed]
        if accuracy is None:
            folder.failed(cell.name, "the trainer: the loss of epoch 3 is nan", "its log")
        else:
            records.append(record_of(cell, accuracy))
    outcome = outcome_with(plan, folder, records)
    text = markdown(outcome)
    assert "8 of 9 runs are done." in text
    assert "| FixMatch | 44.0 ± 4.0 | – | 3 | 91 s | 3,000 | 28.0 |" in text
    # Differences 2, 4, 6: 4 +- 4.3027 * 2 / sqrt(3). The paper: 34.1, of FixMatch 28.0.
    assert "| APLT | 48.0 ± 6.0 | +4.0 [-1.0, +9.0] | 3 | 91 s | 3,000 | 34.1 (+6.1) |" in text
    assert "| labelled clips only | 30.5 ± 0.7 |" in text
    assert "| 2 (1 failed) |" in text
    assert "paper: MA-12, ResNet-18, 10 %" in text
    assert "-seed2-" in text.split("## Failed")[1]
    assert "`: the trainer: the loss of epoch 3 is nan" in text
    assert "2 classes, 100 training clips, 50 test clips; network tiny_tsm from scratch" in text
    assert "55 epochs (15 + 40 in phases of 10)" in text
    lines = {line["row"]: line for line in csv.DictReader(StringIO(csv_text(outcome)))}
    assert (lines["aplt"]["macro"], lines["aplt"]["seeds"]) == ("47.000", "0 1 2")
    assert float(lines["aplt"]["difference_high"]) == pytest.approx(8.968, abs=1e-3)
    assert lines["aplt"]["paper: SMG-5, ResNet-18, 20 %"] == "59.2"
    runs = list(csv.DictReader(StringIO(seeds_csv_text(outcome))))
    assert [run["seed"] for run in runs if run["row"] == "supervised"] == ["0", "1"]
    assert {run["accuracy"] for run in runs if run["row"] == "fixmatch"} == {"40.000", "44.000", "48.000"}

    folder.finished("cell", records[0])
    assert len(read_records(folder.records)) == 1
    assert table_picture(outcome) is not None

    for record in records:
        record["settings"]["data.unlabeled"] = "all"
    assert "2 classes, 90 training clips" in markdown(replace(outcome, records=records))


def test_a_table_without_fixmatch_takes_the_papers_from_table_1_and_the_records_there_are(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path, "table2", "aplt"), Folder(tmp_path)
    both = plan_of(tmp_path, "table2", "aplt", "fixmatch")
    records = [record_of(cell, 0.6 if cell.row == "aplt" else 0.5) for cell in both.cells(None)]
    assert "+10.0 [+10.0, +10.0] | 3 | 91 s | 3,000 | 34.1 (+6.1) |" in markdown(outcome_with(plan, folder, records))
    empty = outcome_with(plan, folder, [])
    assert "Nothing was run yet." in markdown(empty)
    assert seeds_csv_text(empty).splitlines() == ["table,row,label,ratio,seed,accuracy,macro"]
    assert "| APLT | – | – | 0 | – | – | 34.1 (+6.1) |" in markdown(empty)
    assert table_picture(empty) is None


def test_pictures_are_made_of_what_there_is(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "table1", "fixmatch", "aplt")
    found: dict[str, dict[int, Record]] = {"fixmatch": {}, "aplt": {}}
    for cell in plan.cells(None):
        found[cell.row][cell.seed] = record_of(cell, 0.5)
    gains = class_gains(found["aplt"], found["fixmatch"])
    assert {name: np.round(of_class, 6).tolist() for name, of_class in gains.items()} == {
        "nod": [0] * 3,
        "wave": [10] * 3,
    }
    curves = {row: list(of_row.values()) for row, of_row in found.items()}
    for png in (pseudo_label_picture(curves, "seeds"), class_gains_picture(gains, "seeds")):
        assert png is not None
        assert imread(BytesIO(png)).shape[1] == WIDTH
    assert pseudo_label_picture({"FixMatch": []}, "") is None
    assert class_gains_picture(class_gains({}, found["aplt"]), "") is None


def test_a_table_of_validation_clips_says_so(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "table1", "fixmatch", overrides=("data.validation=0.3",))
    cells = plan.cells(None)
    assert {cell.config.data.rules.validation for cell in cells} == {0.3}
    records = [record_of(cell, 0.5) for cell in cells]
    assert "50 validation clips (labelled clips held out" in markdown(outcome_with(plan, Folder(tmp_path), records))
    assert find_record(plan_of(tmp_path, "table1", "fixmatch").cells(None)[0], records) is None


def test_confusion_counts_known_clips() -> None:
    counts = confusion(np.int16([0, 0, 1, -1]), np.int16([0, 1, 1, 1]), num_classes=2)
    assert counts.tolist() == [[1, 1], [0, 1]]


def test_progress_says_what_is_done_and_how_long_the_rest_takes(tmp_path: Path) -> None:
    cells = plan_of(tmp_path, "table1", "fixmatch", "aplt").cells(None)
    done, *todo = cells
    said = StringIO()
    with progress_on(
        Console(file=said, width=200), cells, {cell.name: cell for cell in todo}, [record_of(done, 0.5)]
    ) as progress:
        assert progress.left_s() is None  # nothing is at work yet
        progress.start(todo[0].name)
        progress.start(todo[1].name)
        assert progress.left_s() == 5 * 90 / 2  # five left, two side by side, each as long as the one that is done
        progress.finish(todo[0].name, record_of(todo[0], 0.25) | {"wall_s": 180.0})
        progress.fail(todo[1].name, "the trainer: no luck")
        assert progress.left_s() == (180 + 90 + 180) / 2
        assert progress.failed == {todo[1].name: "the trainer: no luck"}
    lines = said.getvalue().splitlines()
    assert lines[0] == "1 of 6 runs done"
    assert lines[3].endswith(f"{todo[0].name}: 25.0 % in 3 min (2 of 6 runs done, 1 running, about 4 min left)")
    assert lines[4].endswith("failed: the trainer: no luck (2 of 6 runs done, 1 failed, about 4 min left)")


def test_one_benchmark_works_in_a_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.locked(), pytest.raises(RunError, match="another `aplt benchmark` works in"), Folder(tmp_path).locked():
        pass
    with folder.locked():
        pass


def test_a_row_with_fewer_pairs_than_runs_says_so_and_the_page_says_what_was_set(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "table1", "fixmatch", "aplt", overrides=("trainer.lr=0.01", "data.prepared=elsewhere"))
    records = [
        record_of(cell, 0.5) for cell in plan.cells(None) if (cell.row, cell.seed) not in {("fixmatch", 1), ("aplt", 2)}
    ]
    outcome = outcome_with(plan, Folder(tmp_path), records)
    assert "| APLT | 50.0 ± 0.0 | +0.0 (1 of 2 seeds) |" in markdown(outcome)
    assert markdown(outcome).split("## 10 %")[0].endswith("one core. Set for all of them: `trainer.lr=0.01`.\n\n")


def test_a_share_that_the_configuration_gives_is_the_tables(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "table1", "aplt")
    for labeled, ratio in (
        ({"ratio": 0.25}, 25.0),
        ({"rule": "all"}, None),
        ({"total": 40, "rule": "usb_balanced"}, None),
    ):
        changed = replace(plan, ratios=(None,), base={**plan.base, "data": {**SETTINGS["data"], "labeled": labeled}})
        assert configured_ratio(changed.cells(None)[0].config) == ratio


def test_records_of_two_sets_of_clips_are_not_mixed_where_the_clips_are_not_at_hand(tmp_path: Path) -> None:
    cells = plan_of(tmp_path, "table1", "aplt").cells(None)
    records = [record_of(cell, 0.5) for cell in cells]
    assert recorded_digest(cells, []) is None
    assert recorded_digest(cells, records) == "sha256:clips"
    records[0]["data"] = "sha256:others"
    with pytest.raises(DataError, match=r"records of 2 sets of clips.*not in .*prepared: set data\.prepared"):
        recorded_digest(cells, records)


def test_pictures_of_other_settings_do_not_stay_beside_a_table(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "table1", "fixmatch", "aplt")
    folder = Folder(plan.out)
    for cell in plan.cells(None):
        folder.finished(cell.name, record_of(cell, 0.5))
    pictures = {"table1.png", "figure2b-10.png", "figure4-10.png"}
    write_results(plan, folder, None)
    assert {path.name for path in plan.out.glob("*.png")} == pictures
    write_results(replace(plan, overrides=("trainer.lr=0.01",)), folder, None)
    assert not list(plan.out.glob("*.png"))
    assert "Nothing was run yet." in (plan.out / "table1.md").read_text()
