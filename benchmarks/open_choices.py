"""Compare APLT with one setting changed with APLT as it comes, seed by seed.

    python benchmarks/open_choices.py benchmarks/results/choices/records --out choices.png

Reads the records that `aplt benchmark --validate SHARE --set NAME=VALUE ...` left, most of which have the default of
any one setting; prints a line per change, and draws the mean difference with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aplt.common.drawing import BLUE, FAINT, INK, LABEL, MUTED, SMALL, new_figure, to_png
from aplt.deploy.benchmark.records import Record, final_accuracy, read_records
from aplt.deploy.benchmark.statistics import Difference, paired_difference, spread

CHOSEN = ("method.", "features.", "labeler.", "schedule.lead_epochs", "data.augment.")
"""Where a choice is made; the other settings say what the runs are of."""
Runs = dict[int, float]
"""Seed -> accuracy in per cent."""


def runs_by_change(records: Sequence[Record]) -> dict[str, Runs]:
    """Return the runs of APLT by how they depart from the most common value of each setting; "" for no change."""
    records = [record for record in records if record["row"] == "aplt"]
    values = [{name: json.dumps(value).strip('"') for name, value in each["settings"].items()} for each in records]
    common = {name: Counter(v[name] for v in values if name in v).most_common(1)[0][0] for name in set().union(*values)}
    runs: dict[str, Runs] = {}
    for record, of_run in zip(records, values, strict=True):
        changes = [f"{k}={v}" for k, v in sorted(of_run.items()) if k.startswith(CHOSEN) and v != common[k]]
        runs.setdefault(" ".join(changes), {})[record["seed"]] = 100 * (final_accuracy(record) or 0.0)
    return runs


def main() -> None:
    """Print the changes and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = runs_by_change(read_records(args.records))
    base = runs.pop("")
    differences = {change: paired_difference(of_change, base) for change, of_change in runs.items()}
    found = {change: each for change, each in differences.items() if each is not None}
    found = dict(sorted(found.items(), key=lambda item: item[1].mean))
    mean = spread(list(base.values()))
    assert mean is not None
    print(f"{'as it comes':60} {mean.mean:5.1f} % ({mean.n} seeds)")
    for change, difference in found.items():
        low, high = difference.interval
        interval = "" if low is None else f"[{low:+.1f}, {high:+.1f}]"
        print(f"{change:60} {difference.mean:+5.1f} {interval:16} {difference.n} seeds")
    if args.out:
        args.out.write_bytes(picture(found, f"{mean.mean:.1f} % as it comes; mean and 95 % interval over paired seeds"))


def picture(differences: dict[str, Difference], subtitle: str) -> bytes:
    """Return the differences as a PNG file."""
    above, below, rows = 135, 85, 45 * len(differences)  # pixels
    height = above + rows + below
    figure = new_figure("What a changed setting adds to APLT", subtitle, height=height)
    ax = figure.add_axes((0.42, below / height, 0.55, rows / height))
    ax.set_ylim(-0.5, len(differences) - 0.5)
    for y, difference in enumerate(differences.values()):
        bar = {"fmt": "o", "color": BLUE, "ms": 10, "mec": "white", "elinewidth": 2.5}
        ax.errorbar(difference.mean, y, xerr=difference.half_width or 0, **bar)
    ax.set_yticks(range(len(differences)), list(differences))
    ax.axvline(0, color=MUTED, lw=1.5, zorder=1)
    ax.set_xlabel("points of accuracy on validation clips", size=LABEL, color=INK)
    ax.tick_params(labelsize=SMALL, length=0, colors=INK, pad=8)
    ax.grid(axis="x", color=FAINT, lw=1)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
    return to_png(figure)


if __name__ == "__main__":
    main()
