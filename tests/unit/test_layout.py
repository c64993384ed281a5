"""The shape of the source tree: what is packaged, and who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("common", "deploy", "labeler", "trainer")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def test_every_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    on_disk = {
        "aplt." + ".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES if path.name == "__init__.py"
    }
    assert set(settings["tool"]["setuptools"]["packages"]) == on_disk


def test_only_one_file_knows_ray() -> None:
    users = {
        str(path.relative_to(ROOT)) for path in SOURCES if any(name.split(".")[0] == "ray" for name in imported(path))
    }
    assert users == {"deploy/cluster.py"}


def test_nothing_is_pickled_and_no_weights_are_fetched() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert "pickle.load" not in text, path
        assert text.count("torch.load(") == text.count("weights_only=True"), path
        assert "load_state_dict_from_url" not in text, path


@pytest.mark.parametrize("module", ["aplt.common.store", "aplt.common.schedule", "aplt.deploy.launching"])
def test_light_modules_stay_light(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'ray', 'matplotlib'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
