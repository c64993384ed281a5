"""Time reading of the clip cache against a plain memory-mapped array, and against decoding every epoch anew.

    python benchmarks/reading.py                             # clips of MA-52's size are made for the decoders
    python benchmarks/reading.py --data CLIPS --size 128     # CLIPS/<class>/<clip>

Shuffled epochs in batches, as training reads them. `plain` is `np.load(..., mmap_mode="r")[rows]`; `first` is
`ClipCache.read` in the first epoch of a process, which compares checksums; `later` in those after it; `reused` the same
into one array again and again. All take turns, `--repeats` times; a ratio is the median over the rounds. Cold means
that the file's pages were dropped before the epoch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from field_baseline import Clips
from field_loop import make_large_clips
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from aplt.common.data.cache import CLIPS, CacheWriter, ClipCache, cache_settings, frame_spec
from aplt.common.data.decode import decode_clips
from aplt.common.data.frames import Failure, Frames, Job
from aplt.common.views import Augmentation

SEGMENTS, PER_SEGMENT = 8, 2
Rows = NDArray[np.int32]
Epochs = dict[str, list[float]]
"""Clips per second of every epoch, by the way of reading."""


def main() -> None:
    """Print the tables."""
    args = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="reading-", dir=args.out) as name:
        folder = Path(name) / "cache"
        clip_mb = make_cache(folder, args.size, args.gb)
        print(f"clips of {SEGMENTS * PER_SEGMENT} x {args.size} x {args.size} x 3 bytes, {clip_mb:.2f} MB each")
        print(
            f"{'':30}{'plain clips/s':>14}"
            + "".join(f"{name + ' / plain':>16}" for name in ("first", "later", "reused"))
        )
        for readers in (1, 2):
            for batch in (16, 64):
                show(f"{readers} reader(s), batches of {batch}", side_by_side(folder, readers, batch, args.repeats))
        show("1 reader, batches of 16, cold", cold(folder, 16, args.repeats))
        paths = some_of(args.data or make_large_clips(Path(name) / "clips", args.clips), args.clips)
        compare_decoding(folder, paths, args)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder of clips to decode; made-up ones of MA-52's size if not given"
    )
    parser.add_argument("--clips", type=int, default=12, help="clips to decode")
    parser.add_argument("--size", type=int, default=256, help="side in pixels of the clips in the cache")
    parser.add_argument("--gb", type=float, default=1.5, help="size of the cache")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where the cache is made, on the disk to measure")
    return parser.parse_args()


def make_cache(folder: Path, size: int, gb: float) -> float:
    """Fill a cache with random pixels; returns the megabytes of a clip."""
    settings = cache_settings(num_segments=SEGMENTS, frames_per_segment=PER_SEGMENT, size=size, fit="crop")
    shape = (SEGMENTS * PER_SEGMENT, size, size, 3)
    num_clips, draws = int(gb * 1e9 / np.prod(shape)), np.random.default_rng(0)
    with CacheWriter(folder, settings=settings, identities=([row] for row in range(num_clips))) as cache:
        for row in range(num_clips):
            cache.add(row, Frames(draws.integers(0, 256, shape, dtype=np.uint8), 30.0, 60, 1080, 1296))
        cache.finish()
    return float(np.prod(shape) / 1e6)


def show(what: str, epochs: Epochs) -> None:
    """Print a line of the table."""
    ratios = ""
    for name in WAYS[1:]:
        pairs = zip(epochs.get(name, []), epochs["plain"], strict=False)
        ratios += f"{statistics.median(rate / plain for rate, plain in pairs):16.2f}" if name in epochs else f"{'':16}"
    print(f"{what:30}{statistics.median(epochs['plain']):14.0f}{ratios}", flush=True)


def side_by_side(folder: Path, readers: int, batch: int, repeats: int) -> Epochs:
    """Return the clips per second of all readers together."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(readers), context.Queue()
    processes = [
        context.Process(target=warm, args=(folder, batch, repeats, barrier, answers, seed)) for seed in range(readers)
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return {name: [sum(rates) for rates in zip(*(one[name] for one in found), strict=True)] for name in found[0]}


WAYS = ("plain", "first", "later", "reused")


def warm(folder: Path, batch: int, repeats: int, barrier: Any, answers: Any, seed: int) -> None:
    """One reader of `side_by_side`."""
    torch.set_num_threads(1)
    plain, cache = np.load(folder / CLIPS, mmap_mode="r"), ClipCache.open(folder)
    out = np.zeros((batch, *cache.shape[1:]), dtype=np.uint8)
    draws = np.random.default_rng(seed)
    epochs: Epochs = {name: [] for name in WAYS}
    for number in range(repeats + 1):
        fresh = ClipCache.open(folder)
        reads: dict[str, Callable[[Rows], object]] = {
            "plain": lambda rows: plain[rows],
            "first": fresh.read,
            "later": cache.read,
            "reused": lambda rows: cache.read(rows, out=out),
        }
        for name, read in reads.items():
            barrier.wait()
            rate = clips_per_second(read, cache.shape[0], batch, draws)
            if number:  # before, pages were mapped and checksums compared
                epochs[name].append(rate)
    answers.put(epochs)


def cold(folder: Path, batch: int, repeats: int) -> Epochs:
    """Return the clips per second of one reader whose file is not in memory."""
    epochs: Epochs = {"plain": [], "first": []}
    draws = np.random.default_rng(0)
    for _ in range(repeats):
        drop(folder / CLIPS)
        plain = np.load(folder / CLIPS, mmap_mode="r")
        epochs["plain"].append(clips_per_second(lambda rows, plain=plain: plain[rows], len(plain), batch, draws))
        del plain  # mapped pages are not dropped
        drop(folder / CLIPS)
        cache = ClipCache.open(folder)
        epochs["first"].append(clips_per_second(cache.read, cache.shape[0], batch, draws))
        del cache
    return epochs


def drop(path: Path) -> None:
    """Have the kernel forget what it read of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def clips_per_second(read: Callable[[Rows], object], num_clips: int, batch: int, draws: np.random.Generator) -> float:
    """Read one shuffled epoch."""
    order = draws.permutation(num_clips).astype(np.int32)
    starts = range(0, num_clips - batch + 1, batch)
    began = time.perf_counter()
    for start in starts:
        read(order[start : start + batch])
    return len(starts) * batch / (time.perf_counter() - began)


def compare_decoding(folder: Path, paths: list[Path], args: argparse.Namespace) -> None:
    """Print what reading gains over decoding in every epoch, one core each."""
    torch.set_num_threads(1)
    cache, batch = ClipCache.open(folder), 8
    augmentation = Augmentation(
        seed=0,
        num_segments=SEGMENTS,
        frames_per_segment=PER_SEGMENT,
        crop_size=args.size * 7 // 8,
        crop_scale=(0.66, 1.0),
        flip=True,
        num_ops=2,
        cutout=0.5,
    )

    def views(rows: Rows) -> object:
        round_B = np.zeros(len(rows), dtype=np.int64)
        return augmentation.weak(torch.from_numpy(cache.read(rows)), rows, round_B=round_B, view="benchmark")

    draws = np.random.default_rng(0)
    some = min(cache.shape[0], 256)
    ways: dict[str, Callable[[], float]] = {
        "decoding with aplt's decoder": lambda: decoding_rate(paths, args.size),
        "reading the cache": lambda: clips_per_second(cache.read, cache.shape[0], batch, draws),
        "DataLoader: decord, torchvision": lambda: loader_rate(paths, args.size, batch),
        "the cache and weak views of it": lambda: clips_per_second(views, some, batch, draws),
    }
    rates: Epochs = {name: [] for name in ways}
    for _ in range(max(2, args.repeats // 2)):
        for name, way in ways.items():
            rates[name].append(way())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"\n{len(paths)} clips, such as {paths[0].name}; one core")
    print(f"{'':34}{'clips/s':>10}{'ratio':>8}")
    for slow, fast in zip(*[iter(ways)] * 2, strict=True):
        print(f"{slow:34}{medians[slow]:10.1f}{1:8.1f}")
        print(f"{fast:34}{medians[fast]:10.1f}{medians[fast] / medians[slow]:8.1f}")


def decoding_rate(paths: list[Path], size: int) -> float:
    """Return the clips per second of one worker of aplt's, from its first clip on."""
    settings = cache_settings(num_segments=SEGMENTS, frames_per_segment=PER_SEGMENT, size=size, fit="crop")
    jobs = [Job(row, str(path)) for row, path in enumerate([*paths[:1], *paths])]
    outcomes: Iterator[Any] = iter(decode_clips(jobs, spec=frame_spec(settings), workers=1, timeout_s=60.0))
    next(outcomes)
    began = time.perf_counter()
    failures = sum(isinstance(outcome, Failure) for _, outcome in outcomes)
    if failures:
        sys.exit(f"{failures} clips cannot be decoded: name others with --data")
    return len(paths) / (time.perf_counter() - began)


def loader_rate(paths: list[Path], size: int, batch: int) -> float:
    """Return the clips per second of a DataLoader with one worker, as the field's repositories use it."""
    settings = {"num_frames": SEGMENTS, "clip_size": size, "crop_size": size * 7 // 8}
    clips = Clips([str(path) for path in paths], [0] * len(paths), "weak", settings)
    loader = DataLoader(clips, batch, num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    for _ in loader:  # its worker starts
        pass
    began = time.perf_counter()
    for _ in loader:
        pass
    return len(paths) / (time.perf_counter() - began)


def some_of(folder: Path, count: int) -> list[Path]:
    """Return so many clips of a folder, from all of its classes."""
    paths = sorted(folder.glob("*/*"))
    return paths[:: max(1, len(paths) // count)][:count]


if __name__ == "__main__":
    main()
