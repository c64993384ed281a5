"""Time a whole APLT run against the loop that the field's repositories use (benchmarks/field_baseline.py).

    python benchmarks/field_loop.py                          # made-up clips of MA-52's size: 1080 x 1296, 2 s, 30 fps
    python benchmarks/field_loop.py --data CLIPS --size 56   # CLIPS/<class>/<clip>

aplt is run as its users run it without Ray: `aplt data prepare`, then `aplt train` and `aplt label` side by side, each
a process of its own whose start counts. Both train the same network on the same splits for the same number of steps and
evaluate after each epoch. The two take turns, `--repeats` times; the shortest time of each counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from aplt.common.data.prepared import PreparedData, load_truth
from aplt.common.views import Augmentation
from aplt.deploy.config import RunConfig, load_config
from aplt.deploy.runs import open_store
from aplt.deploy.synthetic import ClipSettings, clip_names, render_clip
from aplt.trainer.loader import Loader
from aplt.trainer.state import init_state

PAPER_EPOCHS = 55
WIDTH, HEIGHT, FRAMES, FPS = 1080, 1296, 60, 30
BIT_RATE = 4_000_000  # of MA-52's own clips: 3 to 4.4 Mbit/s, H.264 Main with B frames
RENDERED = 216


@dataclass(frozen=True)
class Timing:
    """One run: wall-clock and CPU seconds in all, seconds of an epoch after the first, and what else is known."""

    wall: float
    cpu: float
    epoch: float
    scores: dict[str, float]
    parts: dict[str, float]

    def extrapolated(self, epochs: int) -> float:
        """Wall-clock seconds if it had gone on to the paper's number of epochs at the same pace."""
        return self.wall + (PAPER_EPOCHS - epochs) * self.epoch


def main() -> None:
    """Print the table."""
    args = parse_arguments()
    out = args.out or Path(tempfile.mkdtemp(prefix="field-loop-"))
    out.mkdir(parents=True, exist_ok=True)
    clips = subset(args.data, out / "clips", args.clips) if args.data else make_large_clips(out / "clips", args.clips)
    aplt, field = [], []
    for repeat in range(args.repeats):
        folder = out / f"run-{repeat}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        config = load_config(write_config(folder, clips, args))
        aplt.append(run_aplt(folder))
        field.append(run_field(folder, config, args.workers))
        print(f"aplt {aplt[-1].wall:.0f} s, field {field[-1].wall:.0f} s", file=sys.stderr, flush=True)
    report(config, min(aplt, key=lambda run: run.wall), min(field, key=lambda run: run.wall), args)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of clips; made-up ones of MA-52's size if not given")
    parser.add_argument("--clips", type=int, default=40, help="clips to make, or to take from --data")
    parser.add_argument("--size", type=int, default=112, help="side in pixels of what the network sees")
    parser.add_argument("--epochs", type=int, default=8, help="all epochs; a quarter of them is warm-up")
    parser.add_argument("--labeled", type=float, default=0.25, help="share of the training clips that show their label")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="decoding processes of either side")
    parser.add_argument("--threads", type=int, help="threads of the network, for either side; all cores if not given")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where clips and runs go; clips that are there are used again")
    return parser.parse_args()


def make_large_clips(folder: Path, num_clips: int) -> Path:
    """Return `folder` with clips of MA-52's size, encoded like those: the demo's figures, large, with camera noise."""
    settings = ClipSettings(num_clips=num_clips, num_subjects=10, size=RENDERED, seed=0)
    missing = [(i, name) for i, name in enumerate(clip_names(settings)) if not (folder / name).exists()]
    # PyAV and decord each bring an FFmpeg and must not meet in one process.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(partial(write_large_clip, folder, settings), missing), start=1):
            print(f"\rmaking clips: {done} of {len(missing)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return folder


def write_large_clip(folder: Path, settings: ClipSettings, job: tuple[int, str]) -> None:
    """Render and encode one clip."""
    import av

    index, name = job
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = render_clip(settings, index, path.parent.name, int(path.stem[1:].split("_")[0]))
    rng = np.random.default_rng(index)
    noise = rng.normal(0, 4, (HEIGHT + 64, WIDTH + 64, 1)).astype(np.int16)
    seen = enlarged(frames[0])
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "profile": "main"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", BIT_RATE
        for number in range(FRAMES):
            if number * len(frames) // FRAMES != (number - 1) * len(frames) // FRAMES:
                seen = enlarged(frames[number * len(frames) // FRAMES])
            y, x = rng.integers(0, 64, 2)
            noisy = np.clip(seen + noise[y : y + HEIGHT, x : x + WIDTH], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, "rgb24")))
        container.mux(stream.encode())
    part.rename(path)


def enlarged(frame_SS3: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return the middle of a frame at the size of the clip."""
    planes = torch.from_numpy(frame_SS3).permute(2, 0, 1)[None].float()
    large = torch.nn.functional.interpolate(planes, (HEIGHT, HEIGHT), mode="bilinear")[0]
    left = (HEIGHT - WIDTH) // 2
    return large[:, :, left : left + WIDTH].permute(1, 2, 0).contiguous().numpy().astype(np.int16)


def subset(data: Path, folder: Path, num_clips: int) -> Path:
    """Return `folder` with links to at most so many clips of `data`, the same number of each class."""
    classes = sorted(path for path in data.iterdir() if path.is_dir())
    for one in classes:
        paths = sorted(path for path in one.iterdir() if path.is_file())
        (folder / one.name).mkdir(parents=True, exist_ok=True)
        for path in random.Random(0).sample(paths, min(len(paths), num_clips // len(classes))):
            if not (folder / one.name / path.name).is_symlink():
                (folder / one.name / path.name).symlink_to(path.resolve())
    return folder


def write_config(folder: Path, clips: Path, args: argparse.Namespace) -> Path:
    """Return the path of the configuration that both sides follow."""
    warm_up = max(2, args.epochs // 4)
    settings = {
        "run": "run",
        "store": {"url": str(folder / "runs")},
        "data": {
            "root": str(clips),
            "prepared": str(folder / "prepared"),
            "test": {"rule": "random", "every": 4},
            "labeled": {"ratio": args.labeled},
            "clip_size": args.size * 8 // 7,
            "crop_size": args.size,
            "workers": args.workers,
        },
        "model": {"name": "tiny_tsm"},
        "schedule": {
            "warmup_epochs": warm_up,
            "epochs": args.epochs - warm_up,
            "phase_epochs": max(2, (args.epochs - warm_up) // 4),
        },
        "trainer": {"lr": 0.03, "threads": args.threads},
        "labeler": {"threads": args.threads},
    }
    path = folder / "cfg.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall-clock seconds, and CPU seconds of all processes that `work` waited for."""

    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    began, cpu_before = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - began, cpu() - cpu_before


def run_aplt(folder: Path) -> Timing:
    """Prepare, train and label, each as a command."""
    command = [sys.executable, "-m", "aplt.deploy.cli"]
    cfg = str(folder / "cfg.yaml")

    def services() -> None:
        with (folder / "aplt.log").open("w") as log:
            both = [subprocess.Popen([*command, name, cfg], stdout=log, stderr=log) for name in ("train", "label")]
            codes = [process.wait() for process in both]
            if any(codes):
                sys.exit(f"aplt failed, see {log.name}")

    prepare = timed(lambda: subprocess.run([*command, "data", "prepare", cfg], check=True, stdout=subprocess.DEVNULL))
    serve = timed(services)
    lines = {role: [json.loads(line) for line in (folder / f"runs/run/records/{role}.jsonl").open()] for role in ROLES}
    ends = [datetime.fromisoformat(line["time"]) for line in lines["trainer"] if line["event"] == "epoch"]
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(ends)]
    config = load_config(folder / "cfg.yaml")
    final = open_store(config).evaluations.load(config.plan().total_epochs).scalars
    trained = sum(line.get("train_s", 0) for line in lines["trainer"] if line["event"] == "epoch")
    return Timing(
        wall=prepare[0] + serve[0],
        cpu=prepare[1] + serve[1],
        epoch=statistics.median(gaps),
        scores={name: final[f"{name}/accuracy"] for name in ("head", "prototypes")},
        parts={"prepare": prepare[0], "prepare cpu": prepare[1], "services": serve[0], "train": trained},
    )


ROLES = ("trainer", "labeler")


def run_field(folder: Path, config: RunConfig, workers: int) -> Timing:
    """Run the baseline on the splits that aplt drew."""
    settings = field_settings(config, workers)
    (folder / "field.json").write_text(json.dumps(settings))
    script = Path(__file__).with_name("field_baseline.py")

    def train() -> None:
        with (folder / "field.log").open("w") as log:
            subprocess.run(
                [sys.executable, str(script), str(folder / "field.json"), str(folder / "result.json")],
                check=True,
                stdout=log,
                stderr=log,
            )

    wall, cpu = timed(train)
    result = json.loads((folder / "result.json").read_text())
    # Epochs that end with labelling are left out: there are more of them in a short run than in a long one.
    epochs = [s for e, s in enumerate(result["epoch_seconds"], start=1) if e > 1 and e not in settings["boundaries"]]
    return Timing(wall=wall, cpu=cpu, epoch=statistics.median(epochs), scores=result["scores"], parts=result["costs"])


def field_settings(config: RunConfig, workers: int) -> dict[str, Any]:
    """Return lists of clips and the numbers of the configuration, as the baseline reads them."""
    data, plan = PreparedData.open(config.data.folder, config.data.split_name), config.plan()
    truth = load_truth(config.data.folder)

    def clips(rows: Any) -> dict[str, Any]:
        paths = [str(config.data.root / data.manifest.video[row]) for row in rows]
        return {"paths": paths, "labels": truth[rows].tolist()}

    first, every = config.schedule.warmup_epochs, config.schedule.phase_epochs
    return {
        "classes": list(data.class_names),
        "labeled": clips(data.labeled_rows_M),
        "unlabeled": clips(data.unlabeled_rows_N),
        "test": clips(data.test_rows_T),
        "num_frames": config.data.num_frames,
        "clip_size": config.data.clip_size,
        "crop_size": config.data.crop_size,
        "model": config.model.name,
        "batch_size": config.trainer.batch_size,
        "lr": config.trainer.lr,
        "threads": config.trainer.threads,
        "seed": config.seed,
        "total_epochs": plan.total_epochs,
        "boundaries": [*range(first, plan.total_epochs, every), plan.total_epochs],
        "workers": workers,
    }


def views_cpu(config: RunConfig) -> float:
    """Return the CPU seconds in which aplt reads and augments the clips of one epoch after the warm-up."""
    data, device = PreparedData.open(config.data.folder, config.data.split_name), torch.device("cpu")
    augmentation = Augmentation.of(config.data, seed=config.seed)
    method = init_state(config, data, device).method
    loader = Loader(
        data,
        augmentation,
        method,
        seed=0,
        num_epochs=1,
        batch_size=config.trainer.batch_size,
        mu=config.trainer.mu,
        device=device,
    )
    began = time.process_time()
    for _ in loader.epoch(1):
        pass
    return time.process_time() - began


def report(config: RunConfig, aplt: Timing, field: Timing, args: argparse.Namespace) -> None:
    """Print who took how long, and for what."""
    data, epochs = PreparedData.open(config.data.folder, config.data.split_name), args.epochs
    print(
        f"{len(data.manifest)} clips ({len(data.labeled_rows_M)} labelled, {len(data.unlabeled_rows_N)} unlabelled, "
        f"{len(data.test_rows_T)} for testing), {config.model.name} at {args.size} px, batch "
        f"{config.trainer.batch_size} + {config.trainer.batch_size}, {epochs} epochs, {os.cpu_count()} cores, "
        f"torch {torch.__version__}\n"
    )
    rows = [
        (f"whole run of {epochs} epochs, measured, wall s", aplt.wall, field.wall),
        (f"whole run of {epochs} epochs, measured, CPU s", aplt.cpu, field.cpu),
        ("an epoch, median, wall s", aplt.epoch, field.epoch),
        (
            f"whole run of {PAPER_EPOCHS} epochs, extrapolated, wall s",
            aplt.extrapolated(epochs),
            field.extrapolated(epochs),
        ),
    ]
    print("| | aplt | field | field / aplt |\n|---|---:|---:|---:|")
    for name, ours, theirs in rows:
        print(f"| {name} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f} |")
    for name in ("head", "prototypes"):
        print(f"| accuracy, {name} | {aplt.scores[name]:.3f} | {field.scores[name]:.3f} | |")

    per_epoch = {name: seconds / epochs for name, seconds in field.parts.items()}
    print("\nCPU seconds, all processes together:\n\n| | aplt | field |\n|---|---:|---:|")
    print(f"| decoding, once (with the start of its processes) | {aplt.parts['prepare cpu']:.1f} | |")
    print(f"| decoding, an epoch | 0 | {per_epoch['decode']:.2f} |")
    print(f"| reading and transforming, an epoch | {views_cpu(config):.2f} | {per_epoch['transform']:.2f} |")
    print(f"| network, an epoch with evaluation and labelling | the same | {per_epoch['model']:.2f} |")
    print(f"| clustering, thresholds and prototypes, an epoch | beside training | {per_epoch['clustering']:.3f} |")
    parts = aplt.parts
    print(
        f"\nWall-clock seconds: aplt prepares in {parts['prepare']:.1f}; its services then run for "
        f"{parts['services']:.1f}, of which {parts['train']:.1f} are steps of training. The field's loop waits "
        f"{field.parts['wait for data (wall)']:.1f} for data."
    )


if __name__ == "__main__":
    main()
