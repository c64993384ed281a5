"""A data set whose clips a decoder paints instead of reading them, and what prepares it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aplt.common.data.datasets import read_source
from aplt.common.data.frames import Frames, FrameSpec, Job
from aplt.common.data.prepare import PrepareReport, prepare
from aplt.common.data.prepared import PreparedData
from aplt.common.data.splits import LabeledRule, SplitRules, TestRule

SPEAKERS = ("s1", "s2", "s3", "s4")
Decoder = Callable[[Job, FrameSpec], Frames]

# Paints what the file says, or does what it says, and notes down what it was asked for.
PAINTER = """
import ctypes, fcntl, zlib
from pathlib import Path
import numpy as np
from aplt.common.data.frames import Frames
def paint(job, spec):
    path = Path(job.path)
    with (Path(__file__).parent / "asked.txt").open("a") as asked:
        asked.write(path.stem + "\\n")
    text = path.read_text()
    if text == "bad":
        raise RuntimeError("damaged")
    if text == "hang":
        ctypes.PyDLL(None).sleep(600)  # native code that keeps all other Python code from running
    shape = (spec.num_frames, spec.size, spec.size, 3)
    pixels = np.random.default_rng(zlib.crc32(text.encode())).integers(0, 255, shape)
    return Frames(pixels.astype(np.uint8), 29.97, 40, 64, 48)
alive = None
def paint_alive(job, spec):
    global alive
    if alive is None:
        alive = (Path(__file__).parent / "alive").open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
    return paint(job, spec)
"""

SETUP = """
import os, signal, sys
from pathlib import Path
here = Path(sys.argv[1])
sys.path.insert(0, str(here))
import painter
from aplt.common.data.datasets import read_source
from aplt.common.data.prepare import prepare
from aplt.common.data.splits import LabeledRule, SplitRules, TestRule
def run(decoder, progress=None):
    return prepare(
        read_source("folder", here / "root", group_regex="^(s.)_"), root=here / "root", prepared=here / "prepared",
        rules=SplitRules(test=TestRule(rule="group"), labeled=LabeledRule(ratio=0.25)),
        num_segments=2, frames_per_segment=1, size=8, fit="crop", workers=1, timeout_s=30.0, max_bad_share=0.1,
        progress=progress, decoder=decoder)
"""


RULES = SplitRules(test=TestRule(rule="group"), labeled=LabeledRule(ratio=0.25))


def sizes(data: PreparedData) -> tuple[int, int, int]:
    """Return how many clips are labelled, unlabelled and for testing."""
    return len(data.labeled_rows_M), len(data.unlabeled_rows_N), len(data.test_rows_T)


class Place:
    """A data set of 2 classes x 4 speakers x 3 clips under a temporary folder."""

    def __init__(self, folder: Path, decoder: Decoder) -> None:
        self.folder, self.root, self.prepared, self.decoder = folder, folder / "root", folder / "prepared", decoder
        for name in ("nod é", "wave [x]"):
            for speaker in SPEAKERS:
                for repeat in range(3):
                    self.write(f"{name}/{speaker}_{repeat}.mp4", f"{name} {speaker} {repeat}")

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def prepare(
        self,
        *,
        adapter: str = "folder",
        labels: Path | None = None,
        group_regex: str | None = "^(s.)_",
        rules: SplitRules | None = RULES,
        **changes: Any,
    ) -> PrepareReport:
        root = changes.get("root", self.root)
        settings: dict[str, Any] = {
            "root": root,
            "prepared": self.prepared,
            "rules": rules,
            "num_segments": 2,
            "frames_per_segment": 1,
            "size": 8,
            "fit": "crop",
            "workers": 1,
            "timeout_s": 30.0,
            "max_bad_share": 0.1,
            "decoder": self.decoder,
        }
        source = read_source(adapter, root, labels=labels, group_regex=group_regex)
        return prepare(source, **(settings | changes))

    def open(self, rules: SplitRules = RULES) -> PreparedData:
        return PreparedData.open(self.prepared, rules.name)

    def asked(self) -> list[str]:
        return (self.folder / "asked.txt").read_text().split()

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.prepared / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
