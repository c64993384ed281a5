"""Show by how much APLT is above FixMatch, by how right FixMatch's pseudo-labels were with the same seed.

    python benchmarks/when_aplt_gains.py --out gains.png lips=benchmarks/results/lips-random/records ...

Reads the records that `aplt benchmark` left, prints a line per pair, and draws them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aplt.common.drawing import BLUE, FAINT, INK, LABEL, MUTED, ORANGE, RED, SMALL, new_figure, to_png
from aplt.deploy.benchmark.records import Record, final_accuracy, read_records

COLOURS = (BLUE, RED, ORANGE)
Pair = tuple[float, int, float, float, float]
"""Labels, seed, FixMatch's right pseudo-labels after the warm-up and in the end, APLT above it; in per cent."""


def pairs_of(records: list[Record]) -> list[Pair]:
    """Return a pair for each seed and share of labels that both methods were run with, APLT as it comes."""
    records = [record for record in records if record["settings"].get("features.normalize", "l2") == "l2"]
    by_row = {(record["row"], record["ratio"], record["seed"]): record for record in records}
    pairs = []
    for (row, ratio, seed), reference in by_row.items():
        record = by_row.get(("aplt", ratio, seed))
        if row == "fixmatch" and record is not None:
            right = {int(epoch): 100 * value for epoch, value in reference["by_epoch"]["online/precision"].items()}
            accuracies = [100 * (final_accuracy(each) or 0.0) for each in (record, reference)]
            warm_up = reference["settings"]["schedule.warmup_epochs"]
            pairs.append((ratio, seed, right[warm_up], right[max(right)], accuracies[0] - accuracies[1]))
    return sorted(pairs)


def main() -> None:
    """Print the pairs and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=RECORDS")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    figure = new_figure("What APLT adds to FixMatch", "a dot: the runs of one seed", height=700)
    ax = figure.add_axes((0.09, 0.13, 0.87, 0.66))
    print(
        f"{'clips':24} {'labels':>6} seed {'right after warm-up, %':>24} {'in the end, %':>14} {'APLT - FixMatch':>16}"
    )
    for each, colour in zip(args.sets, COLOURS, strict=False):
        name, _, folder = each.partition("=")
        pairs = pairs_of(read_records(Path(folder)))
        for ratio, seed, first, last, gain in pairs:
            print(f"{name:24} {ratio:4g} % {seed:4} {first:24.1f} {last:14.1f} {gain:+16.1f}")
        ends, gains = [pair[3] for pair in pairs], [pair[4] for pair in pairs]
        ax.plot(ends, gains, "o", color=colour, ms=13, mec="white", label=name)
    ax.axhline(0, color=MUTED, lw=1.5, zorder=1)
    ax.set_xlabel("right among the pseudo-labels that pass in FixMatch's last epoch, %", size=LABEL, color=INK)
    ax.set_title("points of APLT above FixMatch", size=LABEL, color=INK, loc="left", pad=12)
    ax.tick_params(labelsize=SMALL, length=0, colors=INK, pad=8)
    ax.grid(color=FAINT, lw=1)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
    ax.legend(fontsize=SMALL, frameon=False)
    if args.out:
        args.out.write_bytes(to_png(figure))


if __name__ == "__main__":
    main()
