"""Show where the time of a training epoch goes on this machine, as a table and a picture.

    python benchmarks/profile_epoch.py --out profile-epoch.png

The steps of one epoch run under torch's profiler on ready-made batches; reading and augmenting, which a CPU trainer
does in a thread of its own, are timed beside them. The convolutions' rate is given as a share of what a large matrix
product reaches here, which is about what the processor can do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from trainer_loop import Loop, bare_epoch, describe, loop_parser, made_up_loop

matplotlib.use("agg")
from matplotlib import pyplot as plt

GROUPS = {
    "convolutions, backward": "aten::convolution_backward",
    "convolutions, forward": "aten::mkldnn_convolution",
    "batch norm, both ways": "aten::native_batch_norm",
    "ReLU, backward": "aten::threshold_backward",
    "ReLU, forward": "aten::clamp_min_",
    "temporal shift, both ways": "_Shift",
    "optimiser": "Optimizer.step",
}
"""What people call them -> how the profiler's names begin."""
WITH_ALL_THEY_CALL = ("temporal shift, both ways", "optimiser")
STEPS = 10


def network_costs(loop: Loop) -> dict[str, float]:
    """Return milliseconds a step by group of operations; what no group names is `everything else`."""
    bare_epoch(loop, 2)
    with profile(activities=[ProfilerActivity.CPU]) as run:
        bare_epoch(loop, STEPS)
    events = run.key_averages()
    costs = dict.fromkeys(GROUPS, 0.0)
    for event in events:
        group = next((group for group, name in GROUPS.items() if event.key.startswith(name)), None)
        if group is not None:
            microseconds = event.cpu_time_total if group in WITH_ALL_THEY_CALL else event.self_cpu_time_total
            costs[group] += microseconds / 1e3 / STEPS
    total = sum(event.self_cpu_time_total for event in events) / 1e3 / STEPS
    return costs | {"everything else": total - sum(costs.values())}


def view_costs(loop: Loop) -> dict[str, float]:
    """Return milliseconds a step of reading clips and of drawing and making views, as the loader does it ahead."""
    data, steps = loop.trainer.data, loop.loader.steps_per_epoch
    rows_B = data.unlabeled_rows_N[: len(loop.batches[0].labels_B)]
    both_s = best_seconds(lambda: sum(1 for _ in loop.loader.epoch(2)))
    read_s = 2 * best_seconds(lambda: data.clips.read(rows_B))  # labelled and unlabelled clips
    return {"views, made ahead": 1e3 * (both_s / steps - read_s), "reading clips, ahead": 1e3 * read_s}


def convolution_share_of_peak(loop: Loop, milliseconds: float) -> float:
    """Return the rate of the convolutions over the rate of a large matrix product, both in float32."""
    with FlopCounterMode(display=False) as counter:
        bare_epoch(loop, 1)
    flops = sum(
        count for operation, count in counter.get_flop_counts()["Global"].items() if "convolution" in str(operation)
    )
    size = 1024
    left, right = torch.randn(size, size), torch.randn(size, size)
    peak = 2 * size**3 / best_seconds(lambda: left @ right)
    return flops / (milliseconds / 1e3) / peak


def best_seconds(work: Callable[[], object]) -> float:
    """Return the shortest of five times."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def draw(network: dict[str, float], views: dict[str, float], title: str, path: Path) -> None:
    """Draw both as one bar chart, the largest cost on top."""
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    rows = sorted(views.items(), key=lambda row: row[1]) + sorted(network.items(), key=lambda row: row[1])
    colours = ["#e69f00" if name in views else "#0072b2" for name, _ in rows]
    bars = axes.barh([name for name, _ in rows], [ms for _, ms in rows], color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_xlabel("milliseconds a step; blue: the network, orange: in the read-ahead thread beside it")
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Print the table and draw the picture."""
    parser = loop_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("profile-epoch.png"), help="the picture")
    args = parser.parse_args()
    with made_up_loop(args) as loop:
        network, views = network_costs(loop), view_costs(loop)
        convolutions_ms = sum(network[name] for name in ("convolutions, backward", "convolutions, forward"))
        share = convolution_share_of_peak(loop, convolutions_ms)
        title = describe(args, loop.state.device)
    print(title)
    for name, milliseconds in (network | views).items():
        print(f"{name:28}{milliseconds:8.1f} ms a step")
    print(f"the network in all          {sum(network.values()):8.1f} ms a step")
    print(f"convolutions run at {share:.0%} of the rate of a large matrix product")
    draw(network, views, title, args.out)


if __name__ == "__main__":
    main()
