"""`aplt data` on copies of data sets made on the spot."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import dataset_copies
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from aplt.common.config import AugmentConfig, DataConfig
from aplt.common.data.prepared import PreparedData
from aplt.common.errors import ConfigError
from aplt.deploy.cli import app
from aplt.deploy.config import load_config, load_data_config
from aplt.deploy.prepare import check_flip

SMALL = ("--set", "data.clip_size=32", "--set", "data.crop_size=28", "--set", "data.num_frames=2")


def aplt(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    result = aplt(*arguments)
    assert result.exit_code in (1, 2), result.output
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return said


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset_copies.ma52(tmp_path_factory.mktemp("ma52"))


@pytest.fixture(scope="module")
def prepared(root: Path) -> Path:
    folder = root.parent / "prepared-ma12"
    result = aplt("data", "prepare", "ma52", "--root", root, "--out", folder, "--subset", "ma12", *SMALL)
    assert result.exit_code == 0, result.output
    assert "24 clips: 12 labelled and 0 unlabelled for training, 12 for testing" in result.stdout
    assert "test: 2 clips are left out, because their labels are not public" in result.stdout
    return folder


def test_a_subset_of_a_data_set_is_prepared_by_one_command(root: Path, prepared: Path) -> None:
    settings = load_data_config(prepared)
    assert (settings.adapter, settings.subset, settings.root) == ("ma52", "ma12", root)
    data = PreparedData.open(prepared, settings.split_name)
    classes = json.loads((prepared / "classes.json").read_text())
    assert [one["number"] for one in classes] == [5, 7, 8, 9, 10, 17, 21, 22, 23, 31, 48, 49]
    assert (classes[3]["name"], classes[3]["original"]) == ("nodding", "9")
    assert {data.manifest.split[row] for row in data.test_rows_T} == {"val"}
    assert set(data.manifest.group) == {"0003", "0007"}
    assert data.manifest[0].clip_id == "0003_01_0001"
    assert (data.manifest[0].fps, data.manifest[0].nframes, data.manifest[0].width) == (30.0, 20, 108)
    again = aplt("data", "prepare", "ma52", "--root", root, "--out", prepared, "--subset", "ma12", *SMALL)
    assert "0 decoded now" in again.stdout


def test_a_prepared_folder_does_not_remember_that_settings_were_chosen(root: Path, prepared: Path) -> None:
    command = ["data", "prepare", "ma52", "--root", root, "--out", prepared, "--subset", "ma12", *SMALL]
    result = aplt(*command, "--set", "data.validation=0.5")
    assert "0 for testing" in result.stdout  # of one labelled clip in each class none is held out
    assert load_data_config(prepared).validation == 0


def test_other_splits_and_a_configuration_come_from_the_prepared_folder(prepared: Path, tmp_path: Path) -> None:
    split = aplt("data", "split", prepared, "--protocol", "balanced", "--set", "data.test.per_class=1", "--seed", 3)
    assert split.exit_code == 0, split.output
    (name,) = [line.split()[1] for line in split.stdout.splitlines() if line.startswith("*")]
    assert name.startswith("per_class-0.1-seed3-")
    data = PreparedData.open(prepared, name)
    assert sorted(data.manifest.split[row] for row in data.test_rows_T) != ["val"] * 12
    assert (len(data.labeled_rows_M), len(data.test_rows_T)) == (12, 12)

    cfg = tmp_path / "cfg.yaml"
    assert aplt("init", "--data", prepared, "--out", cfg).exit_code == 0
    assert load_config(cfg).data == load_data_config(prepared)
    for where in (prepared, cfg):
        checked = aplt("data", "check", where)
        assert (checked.exit_code, "12 classes have fewer than 2 labelled clips" in checked.stdout) == (0, True)


def test_lists_are_compared_with_what_is_published(root: Path) -> None:
    result = aplt("data", "check", "ma52", "--root", root)
    assert result.exit_code == 1
    assert "published 11250" in result.stdout.replace(",", "")
    found = json.loads(aplt("data", "check", "ma52", "--root", root, "--json").stdout)
    assert {"expected": 11250, "found": 12}.items() <= next(
        count for count in found["counts"] if count["expected"] == 11250
    ).items()


def test_an_estimate_says_disk_and_time_and_makes_nothing(root: Path, tmp_path: Path) -> None:
    arguments = ("ma52", "--root", root, "--out", tmp_path / "out", "--subset", "ma12", *SMALL)
    result = aplt("data", "prepare", *arguments, "--set", "data.clip_size=100", "--estimate")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "clips 24 in 24 videos" in said
    assert "4 of 100 x 100 pixels" in said
    assert "disk 0.00 GB" in said  # 24 clips of 4 frames are 2.9 MB
    assert "12 clips were tried" in said
    assert list(tmp_path.iterdir()) == []


def test_missing_videos_count_as_bad_ones(root: Path, tmp_path: Path) -> None:
    copy = dataset_copies.ma52(tmp_path / "ma52", videos=False)
    for path in (copy / "val").glob("*_000[12].mp4"):
        path.unlink()
    said = refused("data", "prepare", "ma52", "--root", copy, "--out", tmp_path / "out", "--subset", "ma12")
    assert "none of 8 clips" in said  # `videos=False` leaves empty files
    for path in root.rglob("*.mp4"):
        if (copy / path.relative_to(root)).exists():
            (copy / path.relative_to(root)).write_bytes(path.read_bytes())
    said = refused("data", "prepare", "ma52", "--root", copy, "--out", tmp_path / "out", "--subset", "ma12", *SMALL)
    assert "4 of 24 clips are not in" in said
    assert "0003_02_0001" in said
    allowed = ("--set", "data.max_bad_share=0.2", "--ratio", 1)
    result = aplt(
        "data", "prepare", "ma52", "--root", copy, "--out", tmp_path / "out", "--subset", "ma12", *SMALL, *allowed
    )
    assert result.exit_code == 0, result.output
    assert "12 labelled and 0 unlabelled for training, 8 for testing" in result.stdout


def test_mistakes_are_one_line(root: Path, prepared: Path, tmp_path: Path) -> None:
    def prepare(*arguments: object) -> str:
        return refused("data", "prepare", *arguments)

    assert "needs --root and --out" in prepare("ma52")
    assert "ma53 is no data set" in prepare("ma53", "--root", root, "--out", tmp_path / "x")
    assert "does not exist" in prepare(tmp_path / "cfg.yaml")
    assert "no subset 'smg5'" in prepare("ma52", "--root", root, "--out", tmp_path / "x", "--subset", "smg5")
    assert "option fold of data set ma52 does not exist" in prepare(
        "ma52", "--root", root, "--out", tmp_path / "x", "--option", "fold=2"
    )
    assert "expected NAME=VALUE" in prepare("ma52", "--root", root, "--out", tmp_path / "x", "--option", "fold")
    assert "data.test.rule: 'offical' is not allowed, did you mean 'official'?" in prepare(
        "ma52", "--root", root, "--out", tmp_path / "x", "--protocol", "offical"
    )
    assert "no train_list_videos.txt lies below" in prepare("ma52", "--root", prepared, "--out", tmp_path / "x")
    assert "40 of 52 classes have no labelled" in prepare("ma52", "--root", root, "--out", tmp_path / "x", *SMALL)
    assert "lies inside data.root" in prepare("ma52", "--root", root, "--out", root / "x", "--subset", "ma12")
    assert "needs --root" in refused("data", "check", "ma52")
    assert "is no prepared folder" in refused("data", "split", root)
    assert "needs --name" in refused("data", "split", prepared, "--labeled", root / "annotations/train_list_videos.txt")
    assert "go with --labeled" in refused("data", "split", prepared, "--name", "x")
    assert "prepared s3://bucket/x needs `local`" in prepare("ma52", "--root", root, "--out", "s3://bucket/x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["turn left", "turn right"], ConfigError),
        (["raise left hand", "nod"], "mirrors half of the clips, also of 'raise left hand'"),
        (["nod", "shake"], ""),
    ],
)
def test_flips_are_refused_where_they_change_the_class(names: list[str], said: type[ConfigError] | str) -> None:
    text = StringIO()
    data = DataConfig(root=Path("x"))
    if isinstance(said, str):
        check_flip(names, data, Console(file=text, width=200))
        assert said in text.getvalue()
        assert bool(said) == bool(text.getvalue())
    else:
        with pytest.raises(said, match=r"'turn left' and 'turn right' are each other's mirror image"):
            check_flip(names, data, Console(file=text))
    check_flip(names, data.model_copy(update={"augment": AugmentConfig(flip=False)}), Console(file=StringIO()))
