"""`aplt demo`: the whole system on made-up clips, beside a baseline that sees the labelled clips alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from aplt.common.errors import RunError
from aplt.common.service import ROLES, read_status
from aplt.common.store import ArtifactStore
from aplt.deploy.config import RunConfig, load_config
from aplt.deploy.display import make_table, messages, output, percent
from aplt.deploy.following import follow
from aplt.deploy.launching import start
from aplt.deploy.prepare import prepare_if_needed
from aplt.deploy.runs import create_or_resume, open_store, run_url
from aplt.deploy.synthetic import make_clips

CONFIG = """\
# Settings of the demo. Copy this file, change it, and start your own run: aplt launch --cluster FILE
run: aplt-1
store:
  url: runs
data:
  root: clips            # clips/<class>/<subject>_<number>.mp4
  prepared: prepared
  group_regex: "^(S[0-9]+)_"
  test: {rule: random, every: 4}
  labeled: {ratio: 0.1}  # one clip in ten shows its label
  clip_size: 64
  crop_size: 56
model:
  name: tiny_tsm         # a network that trains on a CPU
method:
  name: aplt
schedule: {warmup_epochs: 8, epochs: 12, phase_epochs: 4, lead_epochs: 1}
trainer: {lr: 0.03, threads: 1}
labeler: {threads: 1, evaluate_every: 2}
"""

BASELINE = ("method.name=supervised", "labeler.evaluate_every=0")


def demo(folder: Path) -> None:
    """Make clips, train APLT on Ray and the baseline without it, and print what came of both."""
    started = time.monotonic()
    console = messages()
    folder.mkdir(parents=True, exist_ok=True)
    make_demo_clips(folder / "clips", console)
    path = folder / "cfg.yaml"
    if not path.exists():
        path.write_text(CONFIG, encoding="utf-8")
    number = free_number(load_config(path))
    aplt = load_config(path, [f"run=aplt-{number}"])
    baseline = load_config(path, [f"run=baseline-{number}", *BASELINE])

    prepare_if_needed(aplt, console)
    baseline_processes = [start_in_background(command, path, baseline) for command in ("train", "label")]
    try:
        store = create_or_resume(aplt, resume=False)
        start(aplt, ROLES)
        follow(store, aplt)
        wait_for_baseline(baseline_processes, baseline, console)
    finally:
        for process in baseline_processes:
            process.terminate()
    print_comparison(aplt, baseline, folder, seconds=time.monotonic() - started)


def make_demo_clips(folder: Path, console: Console) -> None:
    """Make the clips, unless an earlier demo made them."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("making clips", total=None)
        make_clips(folder, progress=lambda done, total: progress.update(task, completed=done, total=total))


def free_number(config: RunConfig) -> int:
    """Return the first number that no earlier demo in this folder used."""
    taken = set(ArtifactStore.runs(config.store.url))
    return next(n for n in range(1, 10_000) if not {f"aplt-{n}", f"baseline-{n}"} & taken)


def start_in_background(command: str, path: Path, config: RunConfig) -> subprocess.Popen[bytes]:
    """Start one service of the baseline without Ray; what it says goes to a file in its run."""
    folder = Path(run_url(config))
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [part for override in (f"run={config.run}", *BASELINE) for part in ("--set", override)]
    with (folder / f"{command}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "aplt.deploy.cli", command, str(path), *arguments], stdout=log, stderr=log
        )


def wait_for_baseline(processes: list[subprocess.Popen[bytes]], config: RunConfig, console: Console) -> None:
    """Wait for the baseline's services.

    Raises:
        RunError: one of them failed.
    """
    with console.status("waiting for the labelled-only baseline"):
        codes = [process.wait() for process in processes]
    if any(codes):
        said = [status.doing for role in ROLES if (status := read_status(open_store(config), role)) is not None]
        raise RunError(f"the baseline failed ({'; '.join(said)}); its logs are in {run_url(config)}")


def print_comparison(aplt: RunConfig, baseline: RunConfig, folder: Path, *, seconds: float) -> None:
    """Print the final accuracies side by side, and where to look next."""
    scores = final_scores(aplt)
    plain = final_scores(baseline)
    num_classes = sum(1 for name in scores if name.startswith("head/class_"))
    rows = [
        ("APLT, prototypes", scores["prototypes/accuracy"], scores["prototypes/macro"]),
        ("APLT, parametric head", scores["head/accuracy"], scores["head/macro"]),
        ("labelled clips only", plain["head/accuracy"], plain["head/macro"]),
        ("chance", 1 / num_classes, 1 / num_classes),
    ]
    console = output()
    table = [(name, percent(top1), percent(macro)) for name, top1, macro in rows]
    console.print(make_table("Accuracy on test clips", ("classifier", "top-1", "mean per class"), table))
    run = run_url(aplt)
    console.print(f"The demo took {seconds / 60:.1f} minutes. Where to look next:")
    console.print(f"  pictures and summary    {run}/report", markup=False)
    console.print(f"  label versions          aplt versions list {run}", markup=False)
    console.print(f"  classify other clips    aplt predict {run} {folder / 'clips'}", markup=False)
    console.print("  your own clips          aplt init --data CLIPS, then aplt launch --cluster cfg.yaml", markup=False)


def final_scores(config: RunConfig) -> dict[str, float]:
    """Return the scalars of the last evaluation of a run."""
    return dict(open_store(config).evaluations.load(config.plan().total_epochs).scalars)
