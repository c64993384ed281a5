"""Time the trainer's epochs against a bare loop over ready-made tensors: what reading, augmenting and recording cost.

    python benchmarks/trainer_loop.py --method fixmatch --model tiny_tsm --crop 56

Both train the same network on the same number of clips with the same loss and optimiser. The bare loop gets finished
batches from memory; the trainer reads clips from a cache file, draws and augments them, keeps features and
pseudo-labels, writes its heartbeat and its records. Their epochs alternate, and the ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from aplt.common.data.cache import CacheWriter, ClipCache, cache_settings
from aplt.common.data.frames import Frames
from aplt.common.data.manifest import Clip, Manifest
from aplt.common.data.prepared import PreparedData
from aplt.common.device import pick_device, use_threads
from aplt.common.records import MetricLog
from aplt.common.service import RoleClaim
from aplt.common.store import ArtifactStore
from aplt.common.views import Augmentation
from aplt.deploy.config import RunConfig, parse_config
from aplt.deploy.services import provenance_of
from aplt.trainer.loader import Loader
from aplt.trainer.loop import Trainer, train_epoch, train_step
from aplt.trainer.methods import METHODS, Batch
from aplt.trainer.state import TrainState, init_state, set_lr

CLASSES = 12
LR = 1e-4


def made_up_data(folder: Path, config: RunConfig, num_clips: int) -> PreparedData:
    """Return prepared data with random pixels in a cache file, a tenth of the clips labelled."""
    frames, size = config.data.num_frames * config.data.frames_per_segment, config.data.clip_size
    settings = cache_settings(
        num_segments=config.data.num_frames,
        frames_per_segment=config.data.frames_per_segment,
        size=size,
        fit="crop",
    )
    random = np.random.default_rng(0)
    with CacheWriter(folder / "cache", settings=settings, identities=[[row] for row in range(num_clips)]) as cache:
        for row in range(num_clips):
            pixels = random.integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
            cache.add(row, Frames(pixels, fps=30.0, nframes=frames, width=size, height=size))
        cache.finish()
    labeled = np.arange(num_clips // 10, dtype=np.int32)
    return PreparedData(
        manifest=Manifest.of(Clip(clip_id=str(row), video=str(row)) for row in range(num_clips)),
        class_names=tuple(map(str, range(CLASSES))),
        labeled_rows_M=labeled,
        labels_M=(labeled % CLASSES).astype(np.int16),
        unlabeled_rows_N=np.arange(len(labeled), num_clips, dtype=np.int32),
        test_rows_T=np.zeros(0, dtype=np.int32),
        clips=ClipCache.open(folder / "cache"),
        digest="",
    )


def configuration(args: argparse.Namespace, folder: Path) -> RunConfig:
    """Return the settings of a run; only those that decide how fast it is matter."""
    return parse_config(
        {
            "run": "benchmark",
            "store": {"url": str(folder / "runs")},
            "data": {
                "root": str(folder),
                "prepared": str(folder),
                "num_frames": args.frames,
                "frames_per_segment": 1,
                "clip_size": -(-args.crop * 8 // 7),
                "crop_size": args.crop,
            },
            "model": {"name": args.model},
            "method": {"name": args.method},
            "schedule": {"warmup_epochs": 1000},
            "trainer": {
                "batch_size": args.batch,
                "lr": LR,
                "device": args.device,
                "precision": args.precision,
                "threads": args.threads,
            },
        },
        source="benchmark",
    )


def bare_epoch(loop: Loop, steps: int) -> None:
    """Train `steps` steps on ready-made batches, again and again the same few."""
    loop.state.model.train()
    for _, batch in zip(range(steps), itertools.cycle(loop.batches), strict=False):
        set_lr(loop.state.optimizer, LR)
        train_step(loop.trainer.config, loop.state, batch)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of `work`, with all that it started on the device."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Loop:
    """A trainer at work on made-up clips, and a few of its batches."""

    trainer: Trainer
    state: TrainState
    loader: Loader
    batches: list[Batch]


@contextmanager
def made_up_loop(args: argparse.Namespace) -> Iterator[Loop]:
    """Set a trainer up in a temporary folder, as the service does."""
    use_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configuration(args, folder)
        data, device = made_up_data(folder, config, args.clips), pick_device(args.device)
        state = init_state(config, data, device)
        augmentation = Augmentation.of(config.data, seed=0)
        loader = Loader(
            data,
            augmentation,
            state.method,
            seed=0,
            num_epochs=config.plan().total_epochs,
            batch_size=args.batch,
            mu=1,
            device=device,
        )
        if args.method == "aplt":
            state.method.version.fill_(1)  # beyond the warm-up: four views and the margin losses
        store = ArtifactStore(config.store.url, config.run)
        with RoleClaim(store, "trainer") as claim, MetricLog(folder, "trainer", claim=1) as log:
            trainer = Trainer(
                config=config,
                plan=config.plan(),
                store=store,
                data=data,
                claim=claim,
                provenance=provenance_of("trainer", config),
                log=log,
            )
            # In the middle of the training: some methods begin or end otherwise.
            batches = [replace(batch, progress=0.5) for _, (_, batch) in zip(range(4), loader.epoch(1), strict=False)]
            yield Loop(trainer, state, loader, batches)


def loop_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for what decides how fast a trainer is."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="fixmatch", choices=sorted(METHODS))
    parser.add_argument("--model", default="tiny_tsm")
    parser.add_argument("--crop", type=int, default=56, help="side of the view in pixels")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="labelled and as many unlabelled clips")
    parser.add_argument("--clips", type=int, default=320)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    return parser


def describe(args: argparse.Namespace, device: torch.device) -> str:
    """Return one line on what was measured."""
    return (
        f"{args.model}, {args.method}, {args.frames} x {args.crop} x {args.crop}, {args.batch} + {args.batch} clips, "
        f"{args.threads} thread(s), {device}, {args.precision}, torch {torch.__version__}"
    )


def main() -> None:
    """Print the rates and their ratio."""
    parser = loop_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="epochs of each kind")
    args = parser.parse_args()
    with made_up_loop(args) as loop:
        trainer, state, device = loop.trainer, loop.state, loop.state.device
        steps = loop.loader.steps_per_epoch
        train_epoch(trainer, state, loop.loader)
        bare_epoch(loop, steps)
        pairs = [
            (
                seconds(lambda: bare_epoch(loop, steps), device),
                seconds(lambda: train_epoch(trainer, state, loop.loader), device),
            )
            for _ in range(args.pairs)
        ]
    clips = 2 * args.batch * steps
    bare_s, ours_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(bare / ours for bare, ours in pairs)
    print(describe(args, device))
    print(f"bare loop {clips / bare_s:8.1f} clips/s   trainer {clips / ours_s:8.1f} clips/s")
    print(f"trainer / bare loop: {statistics.median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
