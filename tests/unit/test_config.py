"""The configuration file: what is said about mistakes, overrides, paths, and what may change when a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from aplt.common.config import MAY_CHANGE, config_digest, flatten
from aplt.common.errors import ConfigError, RunError
from aplt.deploy.config import RunConfig, check_paths, load_config
from aplt.deploy.runs import RECORD, create_or_resume, describe_difference

SMALLEST: dict[str, Any] = {"run": "demo", "data": {"root": "clips"}}


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    path = tmp_path / "cfg.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    return path


def load_text(tmp_path: Path, text: str) -> RunConfig:
    path = tmp_path / "text.yaml"
    path.write_text(text)
    return load_config(path)


def test_defaults_are_the_papers(cfg: Path) -> None:
    config = load_config(cfg)
    trainer, schedule = config.trainer, config.schedule
    assert (trainer.lr, trainer.momentum, trainer.weight_decay) == (0.002, 0.9, 5e-4)
    assert (schedule.warmup_epochs, schedule.epochs, schedule.phase_epochs) == (15, 40, 10)
    assert config.data.num_frames == 8
    assert config.method.name == "aplt"
    assert config.method.tau == 0.95
    assert [phase.snapshot_epoch for phase in config.plan().phases] == [14, 24, 34, 44, 55]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("schedul.epochs=3", ["schedul: unknown setting", "did you mean 'schedule'", "allowed here: cluster, data"]),
        ("schedule.epoch=3", ["schedule.epoch:", "did you mean 'epochs'", "lead_epochs, phase_epochs, warmup_epochs"]),
        ("data.test.evry=2", ["data.test.evry:", "did you mean 'every'", "cap, every, groups, per_class, rule, train"]),
        ("method.tauu=1", [" method.tauu:", "did you mean 'tau'", "lambda_margin"]),
        (
            "method.name=fixmach",
            ["method.name: 'fixmach'", "did you mean 'fixmatch'", "aplt, cmpl, ", ", supervised"],
        ),
        ("method.name=[1]", ["method.name: [1] is not a method"]),
        ("method=fixmatch", ["method: must be a section", "'fixmatch'"]),
        ("method.tau=2", [" method.tau: must be less than or equal to 1", "got 2"]),
        ("trainer.precision=bf", ["trainer.precision: 'bf'", "did you mean 'bf16'", "allowed: fp32, bf16"]),
        ("trainer.ranks=3", ["trainer: batch_size (16) must be a multiple of ranks (3)"]),
        (
            "trainer={ranks: 2, device: cuda:1}",
            ["trainer: device must be auto, cpu or cuda", "several ranks", "cuda:1"],
        ),
        ("trainer.lr=fast", ["trainer.lr: must be a valid number", "got 'fast'"]),
        ("schedule.lead_epochs=2", ["schedule.lead_epochs: 2 is not allowed", "allowed: 0, 1"]),
        ("schedule.warmup_epochs=0", ["schedule.warmup_epochs must be at least 1"]),
        ("data.crop_size=300", ["data: crop_size (300) must not exceed clip_size (256)"]),
        ("data.adapter=csv", ["data: adapter csv needs `labels`"]),
        ("run=a/b", ["run: 'a/b' is not allowed"]),
        ("run=3", ["run: must be text; put it in quotes: '3'"]),
        ("data=3", ["data: must be a section", "got the value 3"]),
        ("store.options.allow_http=true", ["store.options.allow_http: must be text", "'true'"]),
        ("epochs", ["--set epochs: expected a.b=value"]),
        ("data.root.x=3", ["root is a value, not a section"]),
        ("data.root=[", ["'[' is not a YAML value"]),
    ],
)
def test_a_mistake_names_the_setting_and_what_is_allowed(cfg: Path, override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(cfg, [override])
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("run: x", "data: is missing"),
        ("run: x\ndata: {}", "data.root: is missing"),
        ("run: x\ndata:\n  # root: clips\n", "data.root: is missing"),
        ("run: x\nrun: y\ndata: {root: a}", "run occurs twice"),
        ("[1, 2]", "must hold sections"),
        ("", "must hold sections"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        load_text(tmp_path, text)


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, "run: x\ndata: {root: a, sizee: 3}\ntrainer: {mu: 0}")
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["data.sizee", "trainer.mu"]


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="aplt init --data"):
        load_config(tmp_path / "none.yaml")


def test_a_section_with_comments_alone_has_its_defaults(tmp_path: Path) -> None:
    config = load_text(tmp_path, "run: x\ndata: {root: a, test: }\nschedule:\nmethod:\ntrainer: {threads: }")
    assert config == load_text(tmp_path, "run: x\ndata: {root: a}")


def test_overrides_are_yaml_and_the_last_one_wins(cfg: Path) -> None:
    config = load_config(
        cfg, ["trainer.lr=1e-3", "data.augment.crop_scale=[0.5, 1]", "seed=1", "seed=2", "data.labels=", "run=b"]
    )
    assert config.trainer.lr == 1e-3
    assert config.data.augment.crop_scale == (0.5, 1.0)
    assert config.data.labels is None
    assert (config.seed, config.run) == (2, "b")


def test_another_method_takes_over_the_settings_that_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "cfg.yaml"
    path.write_text(yaml.safe_dump({**SMALLEST, "method": {"name": "aplt", "tau": 0.9, "lambda_margin": 2.0}}))
    assert load_config(path, ["method.tau=0.8"]).method.model_dump()["lambda_margin"] == 2.0
    assert load_config(path, ["method.name=fixmatch"]).method.model_dump() == {
        "name": "fixmatch",
        "tau": 0.9,
        "lambda_u": 1.0,
        "offline_labels": False,
    }
    assert load_config(path, ["method.name=supervised"]).plan().phases == ()


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_text(tmp_path, "run: x\ndata: {root: a, labels: b.csv}\nmodel: {init: w.pt, weights_dir: w}")
    assert config.data.root == tmp_path / "a"
    assert config.data.labels == tmp_path / "b.csv"
    assert config.data.prepared == tmp_path / "prepared"
    assert config.model.init == str(tmp_path / "w.pt")
    assert config.model.weights_dir == tmp_path / "w"
    assert config.store.url == str(tmp_path / "runs")
    assert load_text(tmp_path, "run: x\ndata: {root: a}\nstore: {url: 's3://b/p'}").store.url == "s3://b/p"
    assert load_text(tmp_path, "run: x\ndata: {root: ~/a}").data.root == Path.home() / "a"


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("data.root=nowhere", "data.root: .*nowhere is not a folder"),
        ("data.labels=nothing.csv", "data.labels: .*nothing.csv is not a file"),
        ("model.init=imagnet", "model.init: .*imagnet is not there; expected scratch, imagenet, kinetics"),
        ("data.group_regex='(['", "data.group_regex: .* is no regular expression"),
        ("data.group_regex=abc", "data.group_regex: 'abc' has no group"),
    ],
)
def test_check_names_the_path_that_leads_nowhere(cfg: Path, override: str, part: str) -> None:
    (cfg.parent / "clips").mkdir()
    check_paths(load_config(cfg))
    with pytest.raises(ConfigError, match=part):
        check_paths(load_config(cfg, [override]))


def test_a_published_checkpoint_may_be_what_a_network_starts_from(cfg: Path) -> None:
    (cfg.parent / "clips").mkdir()
    checkpoint = cfg.parent / "runs/earlier/checkpoints/v000055"
    checkpoint.mkdir(parents=True)
    check_paths(load_config(cfg, [f"model.init={checkpoint}"]))


def test_a_resolved_configuration_survives_json(cfg: Path) -> None:
    config = load_config(cfg, ["method.name=fixmatch", "data.test.rule=group", "data.test.groups=[a, b]"])
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_every_setting_that_may_change_exists(cfg: Path) -> None:
    settings = flatten(load_config(cfg).model_dump(mode="json"))
    for path in MAY_CHANGE:
        assert any(name == path or name.startswith(f"{path}.") for name in settings), path


@pytest.mark.parametrize(
    "override",
    [
        "cluster.address=10.0.0.1:6379",
        "data.workers=9",
        "trainer.device=cpu",
        "trainer.ranks=2",
        "labeler.threads=3",
        "data.prepared=x",
    ],
)
def test_where_and_how_fast_a_run_works_may_change(cfg: Path, override: str) -> None:
    before, after = (load_config(cfg, extra).model_dump(mode="json") for extra in ([], [override]))
    assert config_digest(before) == config_digest(after)
    assert describe_difference(before, after) == ""


def test_a_run_goes_on_where_settings_have_come_since(cfg: Path) -> None:
    config = load_config(cfg, ["store.url=memory://settings-that-came-later"])
    store = create_or_resume(config, resume=False)
    record = store.read_json(RECORD)
    assert record is not None
    del record["config"]["labeler"]["strategy"], record["config"]["method"]["margin_view"]
    store.write_json(RECORD, record)
    create_or_resume(config, resume=True)
    other = load_config(cfg, ["store.url=memory://settings-that-came-later", "method.margin_view=weak"])
    with pytest.raises(RunError, match=r"configuration: method\.margin_view was 'strong', is 'weak'\. "):
        create_or_resume(other, resume=True)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.lr=0.1", "trainer.lr was 0.002, is 0.1"),
        ("seed=1", "seed was 0, is 1"),
        ("features.source=bank", "features.source was 'trainer', is 'bank'"),
        ("data.labeled.ratio=0.5", "data.labeled.ratio was 0.1, is 0.5"),
    ],
)
def test_what_a_run_computes_may_not_change(cfg: Path, override: str, said: str) -> None:
    before, after = (load_config(cfg, extra).model_dump(mode="json") for extra in ([], [override]))
    assert config_digest(before) != config_digest(after)
    assert describe_difference(before, after) == said
