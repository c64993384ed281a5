"""The paper's own settings as a preset, what a method is tested with, and settings that contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from aplt.common.config import flatten
from aplt.common.errors import ConfigError
from aplt.deploy.config import RunConfig, load_config
from aplt.trainer.config import PAPER, APLTConfig


def config_of(tmp_path: Path, *overrides: str, **sections: Any) -> RunConfig:
    path = tmp_path / "cfg.yaml"
    path.write_text(yaml.safe_dump({"run": "x", "data": {"root": "a"}, **sections}))
    return load_config(path, overrides)


def test_the_preset_is_the_papers_and_what_is_given_stays(tmp_path: Path) -> None:
    flat = flatten(config_of(tmp_path, "method.preset=paper").model_dump())
    assert {name: flat[name] for name in PAPER} == dict(PAPER)
    assert flat["method.preset"] == "paper"
    plain = flatten(config_of(tmp_path).model_dump())
    changed = {name for name in flat if flat[name] != plain[name]}
    assert changed == {"method.preset", "features.normalize", "method.temperature", "schedule.lead_epochs"}

    mixed = config_of(
        tmp_path, "method.preset=paper", "method.temperature=0.5", schedule={"epochs": 3}, features={"normalize": "l2"}
    )
    assert (mixed.schedule.epochs, mixed.schedule.lead_epochs) == (3, 0)
    assert mixed.features.normalize == "l2"
    assert isinstance(mixed.method, APLTConfig)
    assert mixed.method.temperature == 0.5


def test_a_recorded_preset_is_what_it_was(tmp_path: Path) -> None:
    config = config_of(tmp_path, "method.preset=paper", "schedule.lead_epochs=1")
    assert config_of(tmp_path, **config.model_dump(mode="json", exclude={"run", "data"})).method == config.method
    assert config_of(tmp_path, **config.model_dump(mode="json", exclude={"run", "data"})).schedule.lead_epochs == 1


def test_another_method_knows_no_preset(tmp_path: Path) -> None:
    other = config_of(tmp_path, "method.name=uda", method={"name": "aplt", "preset": "paper"})
    assert other.features.normalize == "l2"
    with pytest.raises(ConfigError, match=r"method\.preset: unknown setting"):
        config_of(tmp_path, "method.preset=paper", method={"name": "uda"})


@pytest.mark.parametrize(
    ("overrides", "head"),
    [
        ([], "prototypes"),
        (["method.pseudo_labels=online"], "prototypes"),
        (["method.classifier=parametric"], "head"),
        (["method.classifier=parametric", "method.preset=paper"], "head"),
        (["schedule.warmup_epochs=55", "schedule.epochs=0"], "prototypes"),
        (["method.name=fixmatch"], "head"),
        (["method.name=fixmatch", "method.offline_labels=true", "labeler.strategy=parametric"], "head"),
        (["method.name=fixmatch", "method.offline_labels=true"], "head"),
        (["method.name=mean_teacher"], "head"),
    ],
)
def test_one_place_says_what_a_method_is_tested_with(tmp_path: Path, overrides: list[str], head: str) -> None:
    assert config_of(tmp_path, *overrides).method.tested_head == head


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["labeler.strategy=parametric"], r"method\.name: fixmatch with method\.offline_labels: true, not for aplt"),
        (["method.name=fixmatch", "labeler.strategy=parametric"], "not for fixmatch as it is set here"),
        (["method.classifier=parametric", "method.pseudo_labels=online"], "offline labels alone"),
        (["labeler.augmented_prototypes=true", "labeler.labeled_augmentation=false"], "needs labeled_augmentation"),
        (
            [
                "method.name=fixmatch",
                "method.offline_labels=true",
                "labeler.strategy=parametric",
                "labeler.augmented_prototypes=true",
            ],
            "needs a clustering",
        ),
    ],
)
def test_settings_that_contradict_each_other(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config_of(tmp_path, *overrides)
    assert len(str(caught.value).splitlines()) == 1
