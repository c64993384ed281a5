"""Both services over some hundred label versions: does anything grow, in the processes or in the store?

    python benchmarks/week_of_use.py --versions 200

Two real services work on few and tiny clips with a label version after every epoch, so that a week's worth of versions
takes minutes. While they do, memory, open files, threads, processor time and written bytes of each are read from /proc,
and the size of the run's folder from disk. "per version" is what one more label version costs at that time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aplt.deploy.synthetic import make_clips

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
COMMANDS = {"trainer": "train", "labeler": "label"}


@dataclass(frozen=True)
class Sample:
    """What /proc says about a process."""

    rss_mb: float
    files: int
    threads: int
    cpu_s: float
    written_mb: float

    @classmethod
    def of(cls, pid: int) -> Sample:
        """Return a sample of a process that is there."""
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        written = dict(line.split(": ") for line in (proc / "io").read_text().splitlines())
        times = (proc / "stat").read_text().rsplit(")", 1)[1].split()
        return cls(
            rss_mb=int(status["VmRSS"].split()[0]) / 1024,
            files=len(list((proc / "fd").iterdir())),
            threads=len(list((proc / "task").iterdir())),
            cpu_s=(int(times[11]) + int(times[12])) / TICKS_PER_S,
            written_mb=int(written["wchar"]) / 1e6,
        )


def main() -> None:
    """Run, sample, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=200, help="label versions to make (default %(default)s)")
    parser.add_argument("--every", type=int, default=20, help="versions between two samples (default %(default)s)")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="change a setting, as for aplt"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "runs" / "week"
        config = write_config(folder, arguments.versions)
        print(
            f"{'labels':>6} {'':8} {'RSS MB':>7} {'files':>6} {'threads':>7} {'CPU s':>7} {'per version':>11}", end=""
        )
        print(f" {'written MB':>10} {'per version':>11}   run's folder", flush=True)
        processes = {
            role: subprocess.Popen(
                [sys.executable, "-m", "aplt.deploy.cli", command, str(config), "--quiet"]
                + [part for override in arguments.overrides for part in ("--set", override)],
                stderr=subprocess.DEVNULL if role == "trainer" else None,
            )
            for role, command in COMMANDS.items()
        }
        try:
            before: dict[str, tuple[int, Sample]] = {}
            for version in range(arguments.every, arguments.versions, arguments.every):
                while not (run / f"labels/v{version:06d}/manifest.json").exists():
                    if any(process.poll() for process in processes.values()):
                        sys.exit("a service ended before its time")
                    time.sleep(0.05)
                for role, process in processes.items():
                    sample = Sample.of(process.pid)
                    print(line(version, role, sample, before.get(role)), describe(run), flush=True)
                    before[role] = version, sample
            for process in processes.values():
                process.wait()
        finally:
            for process in processes.values():
                process.kill()


def write_config(folder: Path, versions: int) -> Path:
    """Make clips and a configuration for them; returns its path."""
    clips = make_clips(folder / "clips", num_clips=32, num_subjects=2, size=48)
    settings: dict[str, Any] = {
        "run": "week",
        "store": {"url": str(folder / "runs")},
        "data": {
            "root": str(clips),
            "prepared": str(folder / "prepared"),
            "test": {"rule": "random", "every": 4},
            "labeled": {"ratio": 0.3},
            "num_frames": 4,
            "clip_size": 32,
            "crop_size": 28,
        },
        "model": {"name": "tiny_tsm"},
        "schedule": {"warmup_epochs": 2, "epochs": versions - 1, "phase_epochs": 1, "lead_epochs": 0},
        "trainer": {"batch_size": 8, "lr": 0.02, "threads": 1},
        "labeler": {"threads": 1},
    }
    path = folder / "cfg.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def line(version: int, role: str, sample: Sample, before: tuple[int, Sample] | None) -> str:
    """Return one row of the table but for the store."""
    since, earlier = before or (0, Sample(0, 0, 0, 0, 0))
    steps = version - since
    return (
        f"{version:6d} {role:8} {sample.rss_mb:7.0f} {sample.files:6d} {sample.threads:7d} {sample.cpu_s:7.1f} "
        f"{(sample.cpu_s - earlier.cpu_s) / steps:11.3f} {sample.written_mb:10.1f} "
        f"{(sample.written_mb - earlier.written_mb) / steps:11.3f}  "
    )


def describe(run: Path) -> str:
    """Return number and size of the files in a run's folder, by kind."""
    kinds = {}
    for kind in ("checkpoints", "features", "labels", "evaluations", "services", "records"):
        files = [path for path in (run / kind).rglob("*") if path.is_file()]
        kinds[kind] = (len(files), sum(path.stat().st_size for path in files if path.exists()))
    return " ".join(f"{kind} {size / 1e6:.1f} MB/{count}" for kind, (count, size) in kinds.items())


if __name__ == "__main__":
    main()
