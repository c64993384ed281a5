"""`aplt init` and `aplt data`: from a folder of clips to settings and prepared data."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from aplt.common.data.prepare import PrepareProgress
from aplt.common.data.source import Source, SourceClass, SourceClip
from aplt.deploy import survey
from aplt.deploy.cli import app
from aplt.deploy.config import load_config
from aplt.deploy.prepare import _Lines, _progress
from aplt.deploy.proposal import propose, run_name_of
from aplt.deploy.survey import Survey, find_group_regex
from aplt.deploy.synthetic import make_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("init") / "clips", num_clips=40, num_subjects=4, size=48, workers=1)


def aplt(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def stems(*names: str) -> list[tuple[str, str]]:
    """Stem and class of names such as `wave/F01_03`."""
    return [(name.rpartition("/")[2], name.rpartition("/")[0]) for name in names]


SUBJECTS = [f"{c}/F{s:02d}_{n}" for c in "ab" for s in range(1, 5) for n in range(3)]


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (SUBJECTS, "F01"),
        ([name.replace("F", "subject") for name in SUBJECTS], "subject01"),
        ([name.replace("F", "v_Wave_g") + "_c01" for name in SUBJECTS], None),
        ([f"{c}/v_{c}_g{s:02d}_c{n:02d}" for c in "ab" for s in range(1, 5) for n in range(3)], "01"),
        ([f"{c}/{s:04d}_{n}" for c in "ab" for s in range(30, 34) for n in range(3)], "0030"),
        ([f"{c}/anna_{n}" for c in "ab" for n in range(9)], None),  # one subject is no subject
        ([f"{c}/{c}{s}_{n}" for c in "ab" for s in range(2) for n in range(3)], None),  # repeats the class
        ([f"{c}/{n:03d}" for c in "ab" for n in range(9)], None),
        ([f"{c}/x{n}_{c}" for c in "ab" for n in range(9)], "x0"),
        ([*SUBJECTS, "a/other"], None),
    ],
)
def test_a_subject_is_seen_in_names_only_if_it_is_one(names: list[str], group: str | None) -> None:
    pattern = find_group_regex(stems(*names))
    if group is None:
        assert pattern is None or len({re.search(pattern, stem)[1] for stem, _ in stems(*names)}) > 3  # type: ignore[index]
    else:
        assert pattern is not None
        found = re.search(pattern, stems(*names)[0][0])
        assert found is not None
        assert found[1] == group


SEEN = Survey(
    root=Path("clips"),
    adapter="folder",
    subset=None,
    options={},
    source=Source(
        clips=[SourceClip(clip_id=f"c{n}", video=f"c{n}.mp4", label="ab"[n % 2]) for n in range(20)],
        classes=(SourceClass(name="a", number=0, original="a"), SourceClass(name="b", number=1, original="b")),
    ),
    not_in_table=[],
    group_regex=None,
    groups={},
    sizes=[(640, 480)],
    lengths=[40],
    unreadable={},
    num_cores=2,
    gpus=[],
)


def test_settings_follow_the_machine() -> None:
    cpu = propose(SEEN)
    assert (cpu.model, cpu.clip_size, cpu.crop_size, cpu.lr) == ("tiny_tsm", 64, 56, 0.03)
    assert (cpu.trainer_gpus, cpu.trainer_cpus + cpu.labeler_cpus) == (0, 2)
    one_core = propose(replace(SEEN, num_cores=1))
    assert one_core.trainer_cpus + one_core.labeler_cpus == 1
    gpu = propose(replace(SEEN, gpus=["GPU"], num_cores=16))
    assert (gpu.model, gpu.crop_size, gpu.precision) == ("tsm_resnet18", 224, "bf16")
    assert (gpu.trainer_gpus, gpu.trainer_threads + gpu.labeler_threads) == (0.5, 16)
    assert propose(replace(SEEN, gpus=["GPU"] * 2)).labeler_gpus == 1
    assert propose(replace(SEEN, gpus=["GPU"], sizes=[(128, 96)])).crop_size == 112


def test_settings_follow_the_clips() -> None:
    assert propose(SEEN).frames_per_segment == 2
    assert propose(replace(SEEN, lengths=[9, 10, 40])).frames_per_segment == 1
    assert propose(SEEN).fit == "stretch"
    assert (propose(SEEN).test_rule, propose(SEEN).labeled_rule) == ("random", "per_class")
    assert propose(replace(SEEN, groups={"F01": 5})).test_rule == "group"
    assert propose(replace(SEEN, not_in_table=["x.mp4"])).labeled_rule == "all"
    split = replace(SEEN.source, clips=[replace(clip, split="test") for clip in SEEN.clips])
    assert propose(replace(SEEN, source=split, groups={"F01": 5})).test_rule == "official"


def test_run_names_can_be_used() -> None:
    assert run_name_of(Path("/data/my clips (2)")) == "my-clips-2"
    assert run_name_of(Path("/data/...")) == "run"


def test_init_then_prepare_then_check(clips: Path, tmp_path: Path) -> None:
    cfg = tmp_path / "cfg.yaml"
    result = aplt("init", "--data", clips, "--out", cfg)
    assert result.exit_code == 0, result.output
    assert f"aplt launch --cluster {cfg}" in result.stdout
    assert "40, none without label" in result.stdout
    assert cfg.read_text().count("#") > 30
    config = load_config(cfg)
    assert config.data.root == clips
    assert config.data.group_regex is not None
    assert config.data.test.rule == "group"

    before = cfg.read_text()
    again = aplt("init", "--data", clips, "--out", cfg)
    assert (again.exit_code, cfg.read_text()) == (2, before)
    assert "--force" in again.stderr
    assert aplt("init", "--data", clips, "--out", cfg, "--run", "other", "--force").exit_code == 0
    assert load_config(cfg).run == "other"

    unprepared = aplt("data", "check", cfg)
    assert unprepared.exit_code == 1
    assert "aplt data prepare" in unprepared.stderr
    prepared = aplt("data", "prepare", cfg)
    assert prepared.exit_code == 0, prepared.output
    assert "40 clips: " in prepared.stdout
    assert "40 decoded now" in prepared.stdout
    assert "0 decoded now" in aplt("data", "prepare", cfg).stdout
    checked = aplt("data", "check", cfg, "--json")
    assert checked.exit_code == 0
    assert all(finding["severity"] == "warning" for finding in json.loads(checked.stdout))

    cache = next(config.data.prepared.parent.rglob("clips.npy"))
    content = bytearray(cache.read_bytes())
    content[-1] ^= 1
    cache.write_bytes(content)
    damaged = aplt("data", "check", cfg)
    assert damaged.exit_code == 1
    assert "error (damaged)" in damaged.stdout


def test_a_table_of_the_labelled_clips_is_completed(clips: Path, tmp_path: Path) -> None:
    videos = sorted(path.relative_to(clips).as_posix() for path in clips.rglob("*.mp4"))
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n" + "".join(f"{video},{video.split('/')[0]}\n" for video in videos[::2]))
    cfg = tmp_path / "cfg.yaml"
    result = aplt("init", "--data", clips, "--labels", labels, "--out", cfg)
    assert result.exit_code == 0, result.output
    config = load_config(cfg)
    assert (config.data.adapter, config.data.labeled.rule) == ("csv", "all")
    assert config.data.labels == tmp_path / "cfg-clips.csv"
    rows = list(csv.DictReader(StringIO(config.data.labels.read_text())))
    assert sorted(row["path"] for row in rows) == videos
    assert {row["path"]: row["label"] for row in rows if row["label"]} == {
        video: video.split("/")[0] for video in videos[::2]
    }


def test_a_pattern_that_does_not_fit_is_refused(clips: Path, tmp_path: Path) -> None:
    result = aplt("init", "--data", clips, "--out", tmp_path / "cfg.yaml", "--group-regex", "^(XYZ)_")
    assert result.exit_code == 1
    assert "finds no group in 40 of 40 file names" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_clips_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    for name in ("a/x.mp4", "b/y.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True)
        (tmp_path / "clips" / name).write_bytes(b"no video")
    result = aplt("init", "--data", tmp_path / "clips", "--out", tmp_path / "cfg.yaml")
    assert result.exit_code == 1
    assert "none of 2 clips" in result.stderr
    assert aplt("init", "--data", tmp_path / "nowhere", "--out", tmp_path / "cfg.yaml").exit_code == 1


def test_probes_are_spread_over_the_clips() -> None:
    assert survey._spread(3, 8) == [0, 1, 2]
    assert survey._spread(1000, 4) == [125, 375, 625, 875]


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    now = [0.0]
    text = StringIO()
    lines = _Lines(Console(file=text, width=100), clock=lambda: now[0])
    for second in range(0, 31):
        now[0] = float(second)
        lines(PrepareProgress("decoding", 10 * second, 400))
    printed = text.getvalue().splitlines()
    assert printed[0] == "decoding clips: 400 to do"
    assert len(printed) == 7
    assert printed[-1] == "decoding clips: 300 of 400, 10/s, 10 s left"


def test_progress_on_a_terminal_says_how_far_and_how_fast() -> None:
    text = StringIO()
    with _progress(Console(file=text, force_terminal=True, width=100)) as show:
        show(PrepareProgress("scanning", 0, 12))
        for done in range(20, 30):
            show(PrepareProgress("decoding", done, 400))
    assert re.search(r"decoding clips .* 29 of 400, [\d.]+/s, \d+ \w+ left", text.getvalue())
