"""Pictures from records: a table as a chart, the paper's Figure 2(b) and the left half of its Figure 4."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from aplt.common.drawing import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    LABEL,
    MUTED,
    ORANGE,
    PINK,
    RED,
    SKY,
    SMALL,
    drawable,
    new_figure,
    shorten,
    to_png,
)
from aplt.deploy.benchmark.records import Record
from aplt.deploy.benchmark.statistics import spread
from aplt.deploy.benchmark.tables import Line, Outcome, ratio_text

COLOURS = (BLUE, RED, GREEN, ORANGE, SKY, PINK)
ROW_PIXELS = 58
LINE_PIXELS = 46
"""At least, of a row and of each of its ratios."""
NAME_CHARACTERS = 32
"""Of a line of a row's name; it may have two."""
RATIOS_PER_LINE = 4
Band = dict[int, tuple[float, float, float]]
"""By epoch: mean, lowest and highest over the seeds."""


def table_picture(outcome: Outcome) -> bytes | None:
    """Return accuracies and differences to FixMatch as a chart, a line for each row; None if nothing was run."""
    lines = [line for line in outcome.lines if line.accuracy]
    if not lines:
        return None
    ratios = list(dict.fromkeys(line.ratio for line in lines))
    rows = list(dict.fromkeys(line.row.name for line in lines))
    height = max(420, 230 + max(ROW_PIXELS, LINE_PIXELS * len(ratios)) * len(rows))
    title = f"Table {outcome.table.number}: {outcome.table.title}"
    seeds = sorted({seed for line in lines for seed in line.accuracy})
    subtitle = seeds_text(seeds)
    if len(seeds) > 1:
        subtitle += " · small dots: single runs · bars: standard deviation, and 95 % interval of the mean difference"
    figure = new_figure(title, subtitle, height=height)
    bottom, top = 85 / height, 1 - 170 / height
    left = figure.add_axes((0.27, bottom, 0.38, top - bottom))
    right = figure.add_axes((0.69, bottom, 0.285, top - bottom), sharey=left)
    for k, ratio in enumerate(ratios):
        for line in (line for line in lines if line.ratio == ratio):
            y = rows.index(line.row.name) + (k - (len(ratios) - 1) / 2) * 0.8 / len(ratios)
            _draw_line(left, right, line, y, COLOURS[k % len(COLOURS)])
        colour = COLOURS[k % len(COLOURS)]
        place = (0.27 + 0.18 * (k % RATIOS_PER_LINE), 1 - (128 + 24 * (k // RATIOS_PER_LINE)) / height)
        figure.text(*place, f"● {ratio_text(ratio)}", size=SMALL, color=colour)
    labels = {line.row.name: line.row.label for line in lines}
    left.set_yticks(range(len(rows)), [_wrapped(labels[name]) for name in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    right.axvline(0, color=MUTED, lw=1.5, zorder=1)
    for ax, name in ((left, "accuracy, %"), (right, "points above FixMatch, same seeds")):
        _style(ax, name)
    right.tick_params(labelleft=False)
    return to_png(figure)


def pseudo_label_picture(curves: Mapping[str, Sequence[Record]], subtitle: str) -> bytes | None:
    """Return how right pseudo-labels are and how many pass, by epoch (Figure 2b); None if there are no records.

    Args:
        curves: The records of each row, one per seed, by its name. Rows with labels made offline show those.
        subtitle: What was run.
    """
    figure = new_figure("Pseudo-labels in training: how right they are, and how many pass", subtitle)
    drawn = False
    for index, (name, offline, online) in enumerate(
        (
            ("right among the pseudo-labels that pass, %", "labels/precision", "online/precision"),
            ("unlabelled clips that pass, %", "labels/kept_share", "online/passed_share"),
        )
    ):
        ax = figure.add_axes((0.06 + 0.49 * index, 0.1, 0.42, 0.7))
        for (row, records), colour in zip(curves.items(), (RED, BLUE, GREEN, ORANGE), strict=False):
            series = offline if any(record["by_epoch"][offline] for record in records) else online
            band = band_of(records, series)
            drawn = drawn or bool(band)
            _draw_band(ax, band, drawable(row), colour, marked=series == offline)
        ax.set_ylim(0, 102)
        ax.set_title(name, size=LABEL, color=INK, loc="left", pad=12)
        _style(ax, "epoch", grid="y")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=SMALL, frameon=False, loc="best")
    return to_png(figure) if drawn else None


def class_gains_picture(gains: Mapping[str, Sequence[float]], subtitle: str) -> bytes | None:
    """Return by how many points APLT is above FixMatch in each class (Figure 4, left); None if there are no seeds.

    Args:
        gains: Of each class, the differences of all seeds, in points.
        subtitle: What was run.
    """
    if not any(gains.values()):
        return None
    names = list(gains)
    height = max(420, 190 + 34 * len(names))
    figure = new_figure("Accuracy of each class: points of APLT above FixMatch", subtitle, height=height)
    ax = figure.add_axes((0.27, 80 / height, 0.68, 1 - 200 / height))
    means = [float(np.mean(gains[name])) for name in names]
    colours = [BLUE if mean >= 0 else RED for mean in means]
    ax.barh(range(len(names)), means, height=0.62, color=colours, alpha=0.75, zorder=2)
    for y, name in enumerate(names):
        ax.plot(gains[name], [y] * len(gains[name]), "o", color=INK, ms=5, alpha=0.55, zorder=3)
    ax.axvline(0, color=MUTED, lw=1.5, zorder=1)
    ax.set_yticks(range(len(names)), [_wrapped(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    _style(ax, "points; bars: mean, dots: seeds")
    return to_png(figure)


def seeds_text(seeds: Sequence[int]) -> str:
    """Return which seeds were run, for people."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def band_of(records: Sequence[Record], series: str) -> Band:
    """Return mean, lowest and highest of a series over records, in per cent, at the epochs that all of them have."""
    values = [{int(epoch): 100 * value for epoch, value in record["by_epoch"][series].items()} for record in records]
    values = [of_seed for of_seed in values if of_seed]
    common = set.intersection(*map(set, values)) if values else set()
    return {
        epoch: (float(np.mean(there)), min(there), max(there))
        for epoch in sorted(common)
        if (there := [of_seed[epoch] for of_seed in values])
    }


def class_gains(first: Mapping[int, Record], second: Mapping[int, Record]) -> dict[str, list[float]]:
    """Return by how many points the tested classifier of `first` is above that of `second`, by class, for each seed."""
    gains: dict[str, list[float]] = {}
    for seed in sorted(first.keys() & second.keys()):
        mine, other = (_by_class(records[seed]) for records in (first, second))
        for name, accuracy in mine.items():
            gains.setdefault(name, []).append(100 * (accuracy - other[name]))
    return gains


def _wrapped(name: str) -> str:
    return textwrap.fill(shorten(name, 2 * NAME_CHARACTERS), NAME_CHARACTERS)


def _by_class(record: Record) -> dict[str, float]:
    head = record["tested"]
    return {row["class"]: row[head] for row in record["summary"]["final_by_class"] if row[head] is not None}


def _draw_line(left: Axes, right: Axes, line: Line, y: float, colour: str) -> None:
    values = list(line.accuracy.values())
    found = spread(values)
    assert found is not None
    left.plot(values, [y] * len(values), "o", color=colour, ms=5, alpha=0.35, zorder=2)
    bar: dict[str, Any] = {
        "fmt": "o",
        "color": colour,
        "ms": 10,
        "mec": "white",
        "mew": 1.2,
        "elinewidth": 2.5,
        "zorder": 3,
    }
    left.errorbar(found.mean, y, xerr=found.deviation or 0, **bar)
    if line.difference is not None:
        right.errorbar(line.difference.mean, y, xerr=line.difference.half_width or 0, **bar)


def _draw_band(ax: Axes, band: Band, name: str, colour: str, *, marked: bool) -> None:
    if not band:
        return
    epochs = list(band)
    means, lows, highs = zip(*band.values(), strict=True)
    ax.fill_between(epochs, lows, highs, color=colour, alpha=0.15, lw=0)
    ax.plot(epochs, means, color=colour, lw=3, label=name, marker="o" if marked else "", ms=9, mec="white")


def _style(ax: Axes, name: str, *, grid: Literal["x", "y"] = "x") -> None:
    ax.set_xlabel(name, size=LABEL, color=INK)
    ax.tick_params(labelsize=SMALL, length=0, colors=INK, pad=8)
    ax.grid(axis=grid, color=FAINT, lw=1)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
