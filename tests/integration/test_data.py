"""Clips that break while they are prepared, and prepared data that break while a run trains on them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow
WriteConfig = Callable[..., Path]
Services = Any  # the class lives in conftest.py, which cannot be imported


def num_decoded(prepared: Path) -> int:
    """Clips in the unfinished cache."""
    return sum(int((np.load(path)["state"] == 1).sum()) for path in prepared.glob("cache/*/status.npy"))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_preparing_is_killed_and_meets_too_many_bad_clips(
    services: Services, write_config: WriteConfig, clips: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(clips, tmp_path / "clips")
    bad = sorted(path.relative_to(root).as_posix() for path in root.glob("*/S03_*.mp4"))[-12:]
    for name in bad:
        (root / name).write_text("no video")
    path, prepared = (
        write_config(data={"root": str(root), "prepared": str(tmp_path / "prepared")}),
        tmp_path / "prepared",
    )

    first = services.command("data", "prepare", str(path))
    services.wait_for(lambda: num_decoded(prepared) >= 10, first)
    workers = children(first.pid)
    services.kill(first)
    services.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert len(workers) == 2

    second = services.command("data", "prepare", str(path))
    assert second.wait(240) == 1
    said = services.said(second)
    assert re.search(r"5 of 96 clips cannot be decoded, more than data\.max_bad_share 0\.05 allows", said)
    assert bad[0].removesuffix(".mp4") in said
    assert "Traceback" not in said
    done = num_decoded(prepared)
    assert 10 < done < 96 - 12

    third = services.command("data", "prepare", str(path), "--set", "data.max_bad_share=0.2")
    services.finish(third)
    assert f"{96 - 12 - done} decoded now" in services.said(third)

    other = write_config("other.yaml", data={"root": str(root), "prepared": str(tmp_path / "other")})
    services.finish(services.command("data", "prepare", str(other), "--set", "data.max_bad_share=0.2"))
    about = [json.loads((folder / "prepared.json").read_text()) for folder in (prepared, tmp_path / "other")]
    assert about[0] == about[1]
    cache = Path("cache") / about[0]["cache"] / "clips.npy"
    assert (prepared / cache).read_bytes() == (tmp_path / "other" / cache).read_bytes()


def test_prepared_data_break_while_a_run_trains(
    services: Services, write_config: WriteConfig, clips: Path, tmp_path: Path
) -> None:
    root, prepared = shutil.copytree(clips, tmp_path / "clips"), tmp_path / "prepared"
    path = write_config(
        data={"root": str(root), "prepared": str(prepared)},
        method={"name": "supervised"},
        schedule={"warmup_epochs": 500, "epochs": 0},
    )
    store = services.store(path)
    trainer = services.start("trainer", path)
    services.wait_for(lambda: store.checkpoints.exists(1), trainer)
    (cache,) = prepared.glob("cache/*/clips.npy")
    os.truncate(cache, cache.stat().st_size // 2)
    assert trainer.wait(240) == 1
    assert "clips.npy was cut off while it was in use" in services.said(trainer)
    assert "aplt data prepare" in services.said(trainer)

    clip = next(root.glob("*/S02_*.mp4"))
    whole, times = clip.read_bytes(), clip.stat()
    clip.write_bytes(whole[:100])
    trainer = services.start("trainer", path)
    assert trainer.wait(240) == 1
    assert "began with other prepared data" in services.said(trainer)
    assert "Traceback" not in services.said(trainer)

    clip.write_bytes(whole)
    os.utime(clip, ns=(times.st_atime_ns, times.st_mtime_ns))
    newest = store.checkpoints.latest()
    assert newest is not None
    trainer = services.start("trainer", path)
    services.wait_for(lambda: store.checkpoints.exists(newest.version + 1), trainer)
