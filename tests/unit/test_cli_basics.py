"""The command line as a whole: help, exit codes, what an error looks like, and what is not loaded for nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from aplt.common.errors import RunError
from aplt.deploy import cli

runner = CliRunner()
GROUPS = {
    "versions": ["list", "show", "diff", "export"],
    "config": ["show", "check"],
    "data": ["prepare", "check", "show", "split"],
}
COMMANDS = [
    *("init", "launch", "train", "label", "attach", "status", "stop", "restart", "evaluate", "predict", "report"),
    *(f"{group} {command}" for group, commands in GROUPS.items() for command in commands),
    *("store gc", "store verify"),
]


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    path = tmp_path / "cfg.yaml"
    path.write_text(yaml.safe_dump({"run": "demo", "data": {"root": "clips"}}))
    return path


def test_alone_it_shows_its_help() -> None:
    alone = runner.invoke(cli.app, [])
    assert alone.exit_code == 0
    assert alone.output == runner.invoke(cli.app, ["--help"]).output
    assert "aplt init --data clips" in alone.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = runner.invoke(cli.app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"aplt {command}" in result.output


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['aplt', '--help']\n"
        "from aplt.deploy.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'zarr', 'numpy', 'matplotlib', 'decord', 'pydantic', 'obstore', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version() -> None:
    assert runner.invoke(cli.app, ["--version"]).output.startswith("aplt ")


def test_a_users_mistake_is_one_line_and_its_exit_code(cfg: Path) -> None:
    result = runner.invoke(cli.app, ["config", "check", str(cfg), "--set", "trainer.learning_rate=1"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {cfg}: trainer.learning_rate: unknown setting")
    assert len(result.stderr.splitlines()) == 1


def test_the_process_shows_no_traceback_for_a_users_mistake() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aplt.deploy.cli", "train"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: aplt train needs a configuration file: aplt train cfg.yaml\n"


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("aplt.deploy.config.load_config", fail)


def test_interruption_is_130(cfg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert runner.invoke(cli.app, ["config", "show", str(cfg)]).exit_code == 130


def test_other_errors_of_ours_are_1(cfg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, RunError("the name is taken"))
    result = runner.invoke(cli.app, ["config", "show", str(cfg)])
    assert (result.exit_code, result.stderr) == (1, "error: the name is taken\n")


def test_a_bug_shows_its_traceback_and_asks_for_a_report(
    cfg: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, ZeroDivisionError("oops"))
    monkeypatch.setattr(sys, "argv", ["aplt", "config", "show", str(cfg)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 70
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "ZeroDivisionError: oops" in shown
    assert "please report it" in shown.lower()


def test_config_show_prints_every_setting_as_yaml_and_json(cfg: Path) -> None:
    shown = runner.invoke(cli.app, ["config", "show", str(cfg), "--set", "seed=3"])
    values = yaml.safe_load(shown.stdout)
    assert values["seed"] == 3
    assert values["trainer"]["lr"] == 0.002
    as_json = runner.invoke(cli.app, ["config", "show", str(cfg), "--set", "seed=3", "--json"])
    assert json.loads(as_json.stdout) == values


def test_config_check_starts_nothing_and_tells_the_plan(cfg: Path) -> None:
    (cfg.parent / "clips").mkdir()
    result = runner.invoke(cli.app, ["config", "check", str(cfg)])
    assert result.exit_code == 0
    assert "55 epochs, 5 label versions after epochs 14 24 34 44 55" in result.stdout
    assert sorted(path.name for path in cfg.parent.iterdir()) == ["cfg.yaml", "clips"]


def test_config_check_misses_the_clips(cfg: Path) -> None:
    result = runner.invoke(cli.app, ["config", "check", str(cfg)])
    assert result.exit_code == 2
    assert "data.root" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["versions", "list"], ["evaluate"], ["report"], ["predict", "RUN", "x.mp4"], ["store", "verify"]]
)
def test_a_run_that_is_not_there_leaves_no_trace(arguments: list[str], tmp_path: Path) -> None:
    place = str(tmp_path / "runs" / "demo")
    arguments = [place if part == "RUN" else part for part in arguments]
    result = runner.invoke(cli.app, arguments if place in arguments else [*arguments, place])
    assert result.exit_code == 1
    assert "there is no run demo" in result.stderr
    assert list(tmp_path.iterdir()) == []
