"""Time what is done with the manifest of a million clips, each step in a process of its own, with its peak memory.

    python benchmarks/manifest.py                  # makes a manifest of a million clips of 52 classes and measures
    python benchmarks/manifest.py --clips 100000

Clips are virtual ones, 30 of each video, as those of iMiGUE and SMG. The baseline is what a script would do: the rows
of the csv module as one object each.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from aplt.common.data.cache import CacheWriter, cache_settings
from aplt.common.data.manifest import Clip, csv_text, manifest_text, read_manifest, write_text
from aplt.common.data.prepared import (
    CLASSES,
    MANIFEST,
    PREPARED,
    QUARANTINE,
    TRUTH,
    PreparedData,
    digest,
    load_pool,
    pool_digest,
    write_split,
)
from aplt.common.data.splits import LabeledRule, SplitRules, TestRule, draw

CLASS_NAMES = [f"action {number:02d}" for number in range(52)]
RULES = SplitRules(test=TestRule(rule="random"), labeled=LabeledRule(ratio=0.1))
TARGETS = {"load": "under 2 s", "filter and split": "under 5 s"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3, help="the shortest time of so many counts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="manifest-") as name:
        folder = Path(name)
        make(folder, args.clips)
        megabytes = (folder / MANIFEST).stat().st_size / 1e6
        print(f"{args.clips} clips, {megabytes:.0f} MB of manifest.csv; target of memory: 1 GB")
        print(f"{'':38}{'seconds':>9}{'of CPU':>9}{'peak MB':>9}  target")
        for step in (load, rows, split, write, open_all):
            found = [measure(step, folder) for _ in range(args.repeats)]
            what = (step.__doc__ or "").rstrip(".")
            seconds, cpu, peak = (min(column) for column in zip(*found, strict=True))
            print(f"{what:38}{seconds:9.2f}{cpu:9.2f}{peak:9.0f}  {TARGETS.get(what, '')}", flush=True)


def measure(step: Callable[[Path], float], folder: Path) -> tuple[float, float, float]:
    """Return the seconds of a step, those of a processor, and the most memory that its process held, in MB."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measured, step, folder).result()


def measured(step: Callable[[Path], float], folder: Path) -> tuple[float, float, float]:
    """What `measure` says, from inside."""
    cpu = time.process_time()
    wall = step(folder)
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])  # getrusage counts what the parent process held, too
    return wall, time.process_time() - cpu, peak_kb / 1e3


def load(folder: Path) -> float:
    """load."""
    began = time.perf_counter()
    read_manifest(folder / MANIFEST)
    return time.perf_counter() - began


def rows(folder: Path) -> float:
    """load with the csv module as objects."""
    began = time.perf_counter()
    with (folder / MANIFEST).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        tuple(clip_of(row) for row in csv.DictReader(file))
    return time.perf_counter() - began


def clip_of(row: dict[str, str]) -> Clip:
    """Return a row of the csv module as a clip."""
    return Clip(
        clip_id=row["clip_id"],
        video=row["video"],
        start=int(row["start"]),
        end=int(row["end"]),
        fps=float(row["fps"]),
        nframes=int(row["nframes"]),
        width=int(row["width"]),
        height=int(row["height"]),
        group=row["group"],
        recording=row["recording"],
        split=row["split"],  # type: ignore[arg-type]
    )


def split(folder: Path) -> float:
    """filter and split."""
    pool = load_pool(folder)  # what is read first is measured above
    began = time.perf_counter()
    for number in range(0, len(pool.class_names), 10):
        np.flatnonzero(pool.labels_N == number)
    draw(pool, RULES)
    return time.perf_counter() - began


def write(folder: Path) -> float:
    """load, split and write the lists."""
    began = time.perf_counter()
    pool = load_pool(folder)
    write_split(folder, RULES.name, draw(pool, RULES), pool, origin={"rules": RULES.model_dump(mode="json")})
    return time.perf_counter() - began


def open_all(folder: Path) -> float:
    """open as a service does."""
    began = time.perf_counter()
    PreparedData.open(folder, RULES.name)
    return time.perf_counter() - began


def make(folder: Path, num_clips: int) -> None:
    """Write what `prepare` would, with clips of a single pixel."""
    manifest = list(clips(num_clips))
    ids = [clip.clip_id for clip in manifest]
    settings = cache_settings(num_segments=1, frames_per_segment=1, size=1, fit="crop")
    with CacheWriter(folder / "cache" / "0", settings=settings, identities=([one] for one in ids)) as cache:
        cache.finish()
    files = {
        MANIFEST: manifest_text(manifest),
        CLASSES: json.dumps([{"name": name} for name in CLASS_NAMES]),
        TRUTH: csv_text(("clip_id", "label"), ((one, CLASS_NAMES[row % 52]) for row, one in enumerate(ids))),
        QUARANTINE: csv_text(("clip_id", "reason"), ()),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    digests = {name: digest(text) for name, text in files.items()}
    about = {"digest": digest(digests), "cache": "0", "pool": pool_digest(ids), "files": digests}
    write_text(folder / PREPARED, json.dumps(about))


def clips(count: int) -> Iterator[Clip]:
    """Yield clips that are named and cut as those of an untrimmed data set."""
    draws = random.Random(0)
    for number in range(count):
        recording, start = number // 30, number % 30 * 50
        yield Clip(
            clip_id=f"recording_{recording:06d}_{number % 30:03d}",
            video=f"part {recording % 7}/recording_{recording:06d}.mp4",
            start=start,
            end=start + draws.randrange(20, 80),
            fps=29.97,
            nframes=1700,
            width=1920,
            height=1080,
            group=f"subject{recording % 500:03d}",
            recording=f"{recording:06d}",
            split=("train", "val", "test")[recording % 3],  # type: ignore[arg-type]
        )


if __name__ == "__main__":
    main()
