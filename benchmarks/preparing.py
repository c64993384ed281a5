"""Time the decoding of clips against a bare decord loop over the same files, and show what becomes of real files.

    python benchmarks/preparing.py --lips LIPS --memory
    python benchmarks/preparing.py --files CLIPS

The contenders take turns: `decode_clips` with one worker and with two; a bare loop that knows the size of the pictures,
opens each video once, scaled by the decoder, and fetches the frames; and the usual loop, which fetches frames as they
are and resizes them with torch. All decode on one thread and keep the same frames. A rate counts from the first clip
that is done, so that starting processes does not count; processor time is that of all processes, less what a run over
one clip takes. Ratios are the medians of those of the rounds.

Clips are made here: 640x480 and 1080x1296, two seconds each, and parts of one video of some minutes. `--memory` adds
the largest resident memory of a worker on short and on long videos. `--files` prints what is read of each file in a
folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import av
import decord
import numpy as np
import torch
from torch.nn import functional as F

from aplt.common.data.decode import decode_clips
from aplt.common.data.frames import Failure, Frames, FrameSpec, Job, frame_indices, is_steady

NUM_FRAMES, SIZE = 8, 128


class Load(NamedTuple):
    """Clips to decode; all videos have the same size."""

    jobs: list[Job]
    width: int
    height: int

    @property
    def scaled(self) -> tuple[int, int]:
        scale = SIZE / min(self.width, self.height)
        return round(self.width * scale), round(self.height * scale)


class Took(NamedTuple):
    """Seconds per clip."""

    wall: float
    processor: float


def make_video(path: Path, *, width: int, height: int, seconds: float, fps: int = 25, preset: str = "fast") -> None:
    """Write a textured scene that pans, with noise of its own in every frame."""
    generator = np.random.default_rng(0)
    coarse = torch.from_numpy(generator.uniform(0, 255, (1, 3, 24, 40)).astype(np.float32))
    scene = F.interpolate(coarse, (height + 64, width + 64), mode="bicubic").clamp(0, 255)[0].permute(1, 2, 0).numpy()
    noise = generator.normal(0, 3, scene.shape).astype(np.float32)
    scene_HWC = (scene + noise).clip(0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options={"preset": preset, "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(round(seconds * fps)):
            x, y = int(32 + 31 * np.sin(index / 9)), int(32 + 31 * np.cos(index / 7))
            view = np.ascontiguousarray(scene_HWC[y : y + height, x : x + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())


def short_clips(folder: Path, *, width: int, height: int, count: int) -> Load:
    """Return `count` clips of two seconds."""
    folder.mkdir()
    first = folder / "0.mp4"
    make_video(first, width=width, height=height, seconds=2)
    for index in range(1, count):
        (folder / f"{index}.mp4").write_bytes(first.read_bytes())
    return Load([Job(index, str(folder / f"{index}.mp4")) for index in range(count)], width, height)


def parts(path: Path, *, width: int, height: int, minutes: float, count: int) -> Load:
    """Return `count` clips of two seconds cut out of one video."""
    make_video(path, width=width, height=height, seconds=60 * minutes, preset="ultrafast")
    starts = np.linspace(0, 60 * minutes * 25 - 50, count).astype(int)
    return Load(
        [Job(index, str(path), int(start), int(start) + 49) for index, start in enumerate(starts)], width, height
    )


def processor_s() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def through_workers(load: Load, workers: int) -> Took:
    """Time `decode_clips`."""
    spec = FrameSpec(num_frames=NUM_FRAMES, size=SIZE)

    def run(jobs: list[Job]) -> Took:
        used, first = processor_s(), 0.0
        with closing(decode_clips(jobs, spec=spec, workers=workers, timeout_s=600)) as outcomes:
            for _, outcome in outcomes:
                assert isinstance(outcome, Frames), outcome
                first = first or time.perf_counter()
            last = time.perf_counter()
        return Took(last - first, processor_s() - used)

    starting, whole = run(load.jobs[:1]), run(load.jobs)
    rest = len(load.jobs) - 1
    return Took(whole.wall / rest, (whole.processor - starting.processor) / rest)


def in_one_loop(load: Load, decode: Callable[[Any, list[int]], object], width: int, height: int) -> Took:
    """Time a loop in this process that keeps a video open as long as its clips follow each other."""
    path, used, began = "", processor_s(), time.perf_counter()
    for job in load.jobs:
        if job.path != path:
            path, reader = job.path, decord.VideoReader(job.path, width=width, height=height, num_threads=1)
        indices = frame_indices(NUM_FRAMES, nframes=len(reader), start=job.start, end=job.end)
        decode(reader, indices.tolist())
    count = len(load.jobs)
    return Took((time.perf_counter() - began) / count, (processor_s() - used) / count)


def bare(load: Load) -> Took:
    """Time a careful user's loop."""
    return in_one_loop(load, lambda reader, indices: reader.get_batch(indices).asnumpy(), *load.scaled)


def usual(load: Load) -> Took:
    """Time the loop that most write: frames as they are, resized by torch."""
    width, height = load.scaled

    def decode(reader: Any, indices: list[int]) -> object:
        frames = torch.from_numpy(reader.get_batch(indices).asnumpy()).permute(0, 3, 1, 2)
        return F.interpolate(frames.float(), (height, width), mode="bilinear", antialias=True).round().byte()

    return in_one_loop(load, decode, -1, -1)


def compare(name: str, load: Load, rounds: int) -> None:
    """Print the rates of all contenders and their ratios to the bare loop's."""
    contenders: dict[str, Callable[[Load], Took]] = {
        "bare decord loop": bare,
        "decode_clips, 1 worker": lambda load: through_workers(load, 1),
        "decode_clips, 2 workers": lambda load: through_workers(load, 2),
        "decord and torch": usual,
    }
    took: dict[str, list[Took]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender, run in contenders.items():
            took[contender].append(run(load))
    print(f"\n{name}: {len(load.jobs)} clips of {load.width}x{load.height}, {rounds} rounds")
    print(f"{'':26}{'clips/s':>9}{'times bare':>12}{'ms processor/clip':>20}{'times bare':>12}")
    for contender, rows in took.items():
        pairs = list(zip(rows, took["bare decord loop"], strict=True))
        print(
            f"{contender:26}{1 / statistics.median(row.wall for row in rows):9.1f}"
            f"{statistics.median(base.wall / row.wall for row, base in pairs):12.2f}"
            f"{1000 * statistics.median(row.processor for row in rows):20.2f}"
            f"{statistics.median(row.processor / base.processor for row, base in pairs):12.2f}"
        )


def peak_mb(load: Load) -> float:
    """Return the largest resident memory of a worker that decodes these clips."""
    peak, spec = 0, FrameSpec(num_frames=NUM_FRAMES, size=SIZE)
    with closing(decode_clips(load.jobs, spec=spec, workers=1, timeout_s=600)) as outcomes:
        for _ in outcomes:
            for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                status = Path(f"/proc/{child}/status").read_text()
                peak = max(peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")))
    return peak / 1024


def show_files(folder: Path) -> None:
    """Print what is read of each file, and how long that takes."""
    jobs = [Job(index, str(path)) for index, path in enumerate(path for path in folder.iterdir() if path.is_file())]
    jobs.sort(key=lambda job: job.path)
    took: dict[Job, tuple[Frames | Failure, float]] = {}
    spec = FrameSpec(num_frames=NUM_FRAMES, size=SIZE)
    for order in (jobs, jobs[::-1]) * 3:
        last = float("inf")  # the first one takes the time of starting a process
        for job, outcome in decode_clips(order, spec=spec, workers=1, timeout_s=60):
            now = time.perf_counter()
            seconds = now - last if last < now else float("inf")
            took[job] = (outcome, min(seconds, took[job][1] if job in took else float("inf")))
            last = now
    print(f"{'file':45}{'codec':>8}{'stored':>12}{'format':>13}{'turned':>8}{'upright':>12}", end="")
    print(f"{'fps':>7}{'frames':>8}{'rhythm':>8}{'ms':>7}")
    for job in jobs:
        outcome, seconds = took[job]
        print(f"{Path(job.path).name:45}", end="")
        if isinstance(outcome, Failure):
            print(f" {outcome.reason}")
            continue
        with av.open(job.path) as container:
            picture = next(container.decode(video=0))
            codec = container.streams.video[0].codec_context.codec.canonical_name
        reader = decord.VideoReader(job.path, num_threads=1)
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        rhythm = "none" if (np.diff(times) <= 0).any() else "even" if is_steady(times) else "uneven"
        print(
            f"{codec:>8}{f'{picture.width}x{picture.height}':>12}{picture.format.name:>13}{picture.rotation % 360:8}"
            f"{f'{outcome.width}x{outcome.height}':>12}{outcome.fps:7.2f}{outcome.nframes:8}"
            f"{rhythm:>8}{1000 * seconds:7.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lips", type=Path, help="folder of clips of 128x96 pixels, in folders of classes")
    parser.add_argument("--files", type=Path, help="only print what is read of the files in this folder")
    parser.add_argument("--minutes", type=float, default=4.0, help="length of the long video")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    decord.logging.set_level(decord.logging.QUIET)
    if arguments.files:
        show_files(arguments.files)
        return
    with tempfile.TemporaryDirectory() as made:
        loads = {
            "two seconds": short_clips(Path(made) / "vga", width=640, height=480, count=40),
            "two seconds, tall": short_clips(Path(made) / "tall", width=1080, height=1296, count=12),
            "parts of one video": parts(
                Path(made) / "long.mp4", width=1280, height=720, minutes=arguments.minutes, count=40
            ),
        }
        if arguments.lips:
            paths = sorted(map(str, arguments.lips.glob("*/*.mp4")))[::2]
            loads = {"lips": Load([Job(*each) for each in enumerate(paths)], 128, 96)} | loads
        for name, load in loads.items():
            compare(name, load, arguments.rounds)
        if arguments.memory:
            short = short_clips(Path(made) / "hd", width=1280, height=720, count=12)
            long = loads["parts of one video"]
            print(f"\nlargest resident memory of a worker, 1280x720: two seconds {peak_mb(short):.0f} MB, ", end="")
            print(f"parts of {arguments.minutes:g} minutes {peak_mb(long):.0f} MB")


if __name__ == "__main__":
    main()
