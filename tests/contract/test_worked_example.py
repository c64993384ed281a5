"""The method that CONTRIBUTING.md writes down, added to a copy of the project as it says there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_method_of_the_page_for_contributors_passes_the_contract(tmp_path: Path) -> None:
    page = (PROJECT / "CONTRIBUTING.md").read_text()
    settings, method = (textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    package = tmp_path / "aplt"
    for name in ("common", "trainer", "labeler", "deploy"):
        shutil.copytree(PROJECT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "trainer" / "methods" / "pi_model.py").write_text(method)
    insert(package / "trainer" / "config.py", before="AnyMethodConfig = ", text=f"{settings}\n\n")
    insert(package / "trainer" / "config.py", before="    | PseudoLabelConfig", text="    | PiModelConfig\n")
    methods = package / "trainer" / "methods" / "__init__.py"
    insert(methods, before="from aplt.trainer.methods.pseudo_label", text=f"{IMPORT}\n")
    insert(methods, before='    "pseudo_label":', text='    "pi_model": PiModel,\n')

    contract = [
        str(PROJECT / "tests" / "contract" / name) for name in ("test_method_contract.py", "test_method_training.py")
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "pi_model", *contract],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert "passed" in ran.stdout


IMPORT = "from aplt.trainer.methods.pi_model import PiModel"


def insert(path: Path, *, before: str, text: str) -> None:
    """Write `text` before the only line of a file that starts like this."""
    found = path.read_text().split(f"\n{before}")
    assert len(found) == 2, f"{before!r} in {path.name}"
    path.write_text(f"\n{text}{before}".join(found))
