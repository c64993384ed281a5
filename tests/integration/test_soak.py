"""The short form of `make soak`: a handful of random kills."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from soak import soak

pytestmark = pytest.mark.slow


def test_random_kills_leave_no_trace(
    clips: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"data.prepared={prepared}"]
    code = soak(tmp_path, Namespace(kills=5, seed=0, ray=False, overrides=overrides, clips=clips))
    said = capsys.readouterr().out
    assert code == 0, said
    assert "kill   5" in said or "kill   6" in said
    assert "FAILED" not in said
