"""What a command line of `aplt benchmark` may ask for, and what it is told where it asks for something else."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from aplt.common.config import DataConfig, flatten
from aplt.common.data.manifest import read_manifest
from aplt.common.data.prepared import MANIFEST
from aplt.common.errors import ConfigError
from aplt.deploy.benchmark.asked import make_plan
from aplt.deploy.benchmark.options import base_settings, budget_overrides
from aplt.deploy.benchmark.plan import Plan, prepare_grid
from aplt.deploy.benchmark.rows import Table, method_row
from aplt.deploy.cli import app
from aplt.deploy.synthetic import make_clips

FILE: dict[str, Any] = {
    "run": "mine",
    "data": {"root": "clips", "prepared": "prepared"},
    "model": {"name": "tiny_tsm"},
}


def asked(folder: Path, table: str, *methods: str, overrides: tuple[str, ...] = (), **file: Any) -> Plan:
    cfg = folder / "cfg.yaml"
    cfg.write_text(yaml.safe_dump(FILE | file))
    return make_plan(
        table,
        cfg=cfg,
        data=None,
        ratios=(10.0,),
        seeds=(0,),
        backbone=None,
        methods=methods or None,
        budget=None,
        validate=None,
        out=folder / "out",
        overrides=overrides,
    )


def settings_of(plan: Plan, *names: str) -> dict[str, tuple[Any, ...]]:
    flat = {cell.row: flatten(cell.config.model_dump(mode="json")) for cell in plan.cells(None)}
    return {row: tuple(settings[name] for name in names) for row, settings in flat.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratios", "150"], "error: --ratios 150: expected per cents of the labels, above 0 and up to 100"),
        (["--ratios", "0"], "error: --ratios 0: expected"),
        (["--ratios", "10,nan"], "error: --ratios 10,nan: expected"),
        (["--seeds", "nan"], "error: --seeds nan: expected whole numbers from 0 to 4294967295, such as 0,1,2"),
        (["--seeds", "inf"], "error: --seeds inf: expected"),
        (["--seeds", "1e30"], "error: --seeds 1e30: expected"),
        (["--validate", "30"], "error: --validate 30: expected a share of the labelled clips above 0 and below 1"),
        (["--validate", "0"], "error: --validate 0: expected"),
        (["--backbone", "tiny_tms"], "error: --backbone tiny_tms: model.name: 'tiny_tms' is not allowed, did you mean"),
        (["--budget", "0+0"], "error: --budget 0+0: "),
        (["--set", "trainer.lrr=1"], "error: --set: trainer.lrr: unknown setting, did you mean 'lr'?"),
        (["--set", "seed=9"], "error: --set seed=9 has no effect in a benchmark: --seeds says the seeds"),
        (["--set", "data.split_seed=7"], "has no effect in a benchmark: --seeds says the seeds, those of the splits"),
        (["--set", "run=x"], "error: --set run=x has no effect in a benchmark: runs are named after their cells"),
        (["--set", "method.name=uda"], "has no effect in a benchmark: --methods chooses rows"),
        (["--set", "store.url=other"], "error: --set store.url=other has no effect in a benchmark: runs are below"),
        (["--set", "trainer.threads=2"], "has no effect in a benchmark: it follows from cluster.trainer.cpus"),
        (["--backbone", "r3d_18", "--set", "model.name=x"], "no effect in a benchmark: --backbone r3d_18 says it"),
        (["--ratios", "10", "--set", "data.labeled.ratio=0.2"], "no effect in a benchmark: --ratios says how many"),
        (
            ["--set", "method.temprature=0.2"],
            "error: --set method.temprature=0.2: no method of these rows has this setting, did you mean method.temp",
        ),
        (
            ["--methods", "fixmatch", "--set", "method.offline_labels=true"],
            "error: --set method.offline_labels=true has no effect on these rows, which differ in just that",
        ),
    ],
)
def test_what_is_wrong_with_an_option_names_it(tmp_path: Path, options: list[str], message: str) -> None:
    cfg = tmp_path / "cfg.yaml"
    cfg.write_text(yaml.safe_dump(FILE))
    result = CliRunner().invoke(app, ["benchmark", "table1", str(cfg), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_in_the_file_names_the_file_and_its_own_method_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cfg\.yaml: data\.clip_siez: unknown setting, did you mean 'clip_size'"):
        asked(tmp_path, "table1", overrides=("trainer.lr=0.1",), data=FILE["data"] | {"clip_siez": 3})
    with pytest.raises(ConfigError, match=r"cfg\.yaml: method\.temprature: unknown setting, did you mean 'temp"):
        asked(tmp_path, "table1", "uda", method={"temprature": 0.2})
    asked(tmp_path, "table1", data={"prepared": "prepared"}, overrides=("data.root=clips",))  # which mends the file


def test_a_schedule_for_methods_without_label_versions_is_fine_where_there_are_no_others(tmp_path: Path) -> None:
    short = ("schedule.warmup_epochs=1", "schedule.epochs=1")
    asked(tmp_path, "table1", "fixmatch", "vat", overrides=short)
    asked(tmp_path, "table1", "fixmatch", schedule={"warmup_epochs": 1, "epochs": 1})
    with pytest.raises(ConfigError, match=r"row aplt: schedule\.lead_epochs \(1\) must be smaller than"):
        asked(tmp_path, "table1", "fixmatch", "aplt", overrides=short).cells(None)


def test_a_budget_has_at_most_four_phases_and_a_method_one_row(tmp_path: Path) -> None:
    assert budget_overrides("15+9")[-1] == "schedule.phase_epochs=3"  # three of three, not four
    assert [row.name for row in asked(tmp_path, "table1", "cmpl", "cmpl", "aplt", "aplt").rows] == ["aplt", "cmpl"]


PARTS = ("labeler.strategy", "labeler.labeled_augmentation", "labeler.threshold", "method.margin_view")
LABELS = ("method.pseudo_labels", "method.classifier")
ABLATIONS = ("km", "sskm-w", "sskm-s", "sskm-s-la", "sskm-s-sat", "aplt-syn", "variant-1", "variant-2")


@pytest.mark.parametrize(
    "change",
    [
        {"labeler": {"strategy": "kmeans", "labeled_augmentation": False, "threshold": "none"}},
        {"method": {"name": "aplt", "margin_view": "weak", "pseudo_labels": "online"}},
        {"method": {"name": "aplt", "classifier": "parametric", "temperature": 0.2}},
        {"method": {"name": "aplt", "temperature": 0.2}, "labeler": {"augmented_prototypes": True}},
        {"method": {"name": "aplt", "preset": "paper"}},
        {"method": {"name": "fixmatch", "offline_labels": True}, "labeler": {"strategy": "parametric"}},
    ],
)
def test_a_row_is_what_it_is_called_whatever_the_file_says(tmp_path: Path, change: dict[str, Any]) -> None:
    plan = asked(tmp_path, "all", "fixmatch", "fixmatch-asy", "uda", *ABLATIONS, **change)
    assert settings_of(asked(tmp_path, "all", *ABLATIONS), *PARTS, *LABELS) == {
        "km": ("kmeans", False, "none", "weak", "offline", "prototypes"),
        "sskm-w": ("sskm", False, "none", "weak", "offline", "prototypes"),
        "sskm-s": ("sskm", False, "none", "strong", "offline", "prototypes"),
        "sskm-s-la": ("sskm", True, "none", "strong", "offline", "prototypes"),
        "sskm-s-sat": ("sskm", False, "adaptive", "strong", "offline", "prototypes"),
        "aplt-syn": ("sskm", True, "adaptive", "strong", "online", "prototypes"),
        "variant-1": ("sskm", True, "adaptive", "strong", "offline", "parametric"),
        "variant-2": ("sskm", True, "adaptive", "strong", "offline", "prototypes"),
    }
    ablations = Plan(**vars(plan) | {"tables": asked(tmp_path, "all", *ABLATIONS).tables})
    assert settings_of(ablations, *PARTS, *LABELS) == settings_of(asked(tmp_path, "all", *ABLATIONS), *PARTS, *LABELS)
    (fixmatch,) = (cell.config for cell in plan.cells(None) if cell.row == "fixmatch")
    assert not fixmatch.method.uses_labels
    (asy,) = (cell.config for cell in plan.cells(None) if cell.row == "fixmatch-asy")
    assert (asy.method.uses_labels, asy.labeler.strategy) == (True, "parametric")


def test_settings_that_no_row_is_named_for_reach_all_rows_that_have_them(tmp_path: Path) -> None:
    plan = asked(tmp_path, "all", overrides=("method.temperature=0.2", "labeler.augmented_prototypes=true"))
    found = settings_of(plan, "labeler.augmented_prototypes")
    assert [row for row in ("km", "sskm-s-sat", "fixmatch-asy", "sskm-s-la", "aplt") if found[row][0]] == [
        "sskm-s-la",
        "aplt",
    ]


def test_aplt_may_be_changed_but_not_beside_its_ablations(tmp_path: Path) -> None:
    weak = ("method.margin_view=weak",)
    assert settings_of(asked(tmp_path, "table1", "aplt", overrides=weak), "method.margin_view") == {"aplt": ("weak",)}
    message = "method.margin_view is weak, but APLT stands beside rows that lack parts of it and must itself have"
    with pytest.raises(ConfigError, match=message):
        asked(tmp_path, "table3", overrides=weak)
    with pytest.raises(ConfigError, match=r"labeler\.labeled_augmentation is false, but APLT stands"):
        asked(tmp_path, "all", labeler={"labeled_augmentation": False})


def prepared_by(folder: Path, cfg: Path | None, data: Path | None, ratio: float) -> DataConfig:
    """Prepare as `aplt benchmark` does; returns the settings of data of its first run."""
    base, settings_folder = base_settings(cfg, data, folder / "out")
    rows = (method_row("supervised", ""),)
    plan = Plan(
        tables=(Table(name="t", number=0, title="", rows=rows),),
        ratios=(ratio,),
        seeds=(0,),
        base=base,
        folder=settings_folder,
        overrides=(),
        out=folder / "out",
    )
    cells = plan.cells(None)
    prepare_grid(cells, Console(file=StringIO()))
    return cells[0].config.data


def test_clips_and_prepared_folders_beside_a_file_change_nothing_of_its_own(tmp_path: Path) -> None:
    cfg, other = tmp_path / "cfg.yaml", tmp_path / "other"
    make_clips(other, num_clips=32, num_subjects=2, size=32, workers=1)
    make_clips(tmp_path / "clips", num_clips=40, num_subjects=2, size=32, workers=1)
    of_file = {
        **{"root": "clips", "prepared": "prepared", "num_frames": 4, "clip_size": 24, "crop_size": 16},
        **{"test": {"rule": "random", "every": 4}, "labeled": {"ratio": 0.5}, "augment": {"flip": False}},
    }
    cfg.write_text(yaml.safe_dump(FILE | {"data": of_file}))
    prepared_by(tmp_path, cfg, None, 50)
    recorded = (tmp_path / "prepared" / "data.yaml").read_text()
    whole = (tmp_path / "prepared" / MANIFEST).read_text()

    # Clips in another folder are prepared below --out.
    data = prepared_by(tmp_path, cfg, other, 50)
    assert data.folder == tmp_path / "out" / "prepared"
    assert (data.root, data.crop_size, data.augment.flip) == (other, 16, False)
    assert len(read_manifest(data.folder / MANIFEST)) == 32
    assert (tmp_path / "prepared" / MANIFEST).read_text() == whole

    # Of a prepared folder comes what it holds; what the file says of splits and views stays.
    (tmp_path / "prepared").rename(tmp_path / "moved")
    cfg.write_text(yaml.safe_dump(FILE | {"data": of_file | {"clip_size": 32, "root": "gone", "fit": "pad"}}))
    data = prepared_by(tmp_path, cfg, tmp_path / "moved", 40)
    assert (data.root, data.folder, data.clip_size, data.fit) == (tmp_path / "clips", tmp_path / "moved", 24, "crop")
    assert (data.crop_size, data.augment.flip, data.test.every, data.labeled.ratio) == (16, False, 4, 0.4)
    assert not (tmp_path / "prepared").exists()

    # Alone it means what it was made for, not what the last benchmark asked for.
    assert (tmp_path / "moved" / "data.yaml").read_text() == recorded
    base, _ = base_settings(None, tmp_path / "moved", tmp_path / "out")
    assert (base["data"]["labeled"]["ratio"], base["data"]["test"]["every"]) == (0.5, 4)
