"""Run named variants of one configuration, both services of each, and keep a small record of every finished run.

    python benchmarks/evidence.py --cfg cfg.yaml --out benchmarks/results/lips \\
        --run fixmatch-random method.name=fixmatch data.test.rule=random \\
        --run aplt-random     method.name=aplt     data.test.rule=random

A variant whose record is there is not run again, and one that was interrupted goes on where it stopped, so the same
command continues a list on any machine. A record holds the run's summary, the pseudo-labels' quality by epoch, and what
it ran on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from aplt.deploy.config import load_config
from aplt.deploy.runs import code_version, open_store

BY_EPOCH = ("online/precision", "online/passed_share", "head/accuracy", "prototypes/accuracy")


def hardware() -> str:
    """Return processor, cores and torch version in words."""
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(": ")[2] for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}"


def run_variant(cfg: Path, name: str, overrides: list[str]) -> dict[str, Any]:
    """Return the record of a finished run of both services, in the foreground and without Ray.

    Raises:
        SystemExit: a service failed; what it said was printed.
    """
    settings = [f"run={name}", *overrides]
    options = [part for setting in settings for part in ("--set", setting)]
    services = [
        subprocess.Popen([sys.executable, "-m", "aplt.deploy.cli", command, str(cfg), "--quiet", *options])
        for command in ("train", "label")
    ]
    codes = [service.wait() for service in services]
    if any(codes):
        raise SystemExit(f"{name}: a service failed")
    config = load_config(cfg, settings)
    store = open_store(config)
    summary = store.read_json("report/summary.json")
    assert summary is not None
    scalars = {epoch: store.evaluations.load(epoch).scalars for epoch in store.evaluations.versions()}
    return {
        "name": name,
        "overrides": overrides,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "hardware": hardware(),
        "summary": {key: value for key, value in summary.items() if key not in ("pictures", "where_next")},
        "by_epoch": {
            quantity: {epoch: round(values[quantity], 4) for epoch, values in scalars.items() if quantity in values}
            for quantity in BY_EPOCH
        },
    }


def main() -> None:
    """Run what has no record yet, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", type=Path, required=True, help="a configuration, such as `aplt init` writes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--run", nargs="+", action="append", required=True, metavar=("NAME", "a.b=c"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, *overrides in args.run:
        path = args.out / f"{name}.json"
        if path.exists():
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name}: started", flush=True)
        record = run_variant(args.cfg, name, overrides)
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        final = {
            head: value and value["accuracy"] for head, value in record["summary"]["final"].items() if head != "epoch"
        }
        print(f"{name}: {final}, {record['summary']['seconds']['wall']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
