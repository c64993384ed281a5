"""Charts of a run as PNG bytes, fit for a slide: 1600 x 900 pixels, colours that colour-blind people can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from aplt.common.drawing import BLUE, DPI, FAINT, GREEN, HEIGHT, INK, LABEL, MUTED, RED, SKY, SMALL, new_figure, to_png


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Shares (0 to 1) by epoch, drawn as one line with its last value written at its end."""

    name: str
    values: Mapping[int, float]
    colour: str
    line: Literal["-", "--", ":"] = "-"
    marker: Literal["", "o", "s", "D"] = ""
    percent: bool = True


@dataclass(frozen=True)
class End:
    """The last point of a curve, and what is written about it."""

    epoch: float
    value: float
    text: str
    colour: str


def accuracy_picture(
    *,
    subtitle: str,
    head: Mapping[int, float],
    prototypes: Mapping[int, float],
    prototypes_before: float | None,
    starts: Mapping[int, int],
    num_classes: int,
    total_epochs: int,
) -> bytes:
    """Return test accuracy by epoch, by the parametric head and by the prototypes.

    Args:
        subtitle: What run this is.
        head: Accuracy (0 to 1) of the parametric head by epoch.
        prototypes: The same of the prototypes.
        prototypes_before: Accuracy of the last network with the prototypes before the last ones, if known.
        starts: First epoch that each label version trains.
        num_classes: K, for the chance line.
        total_epochs: Length of the run.
    """
    figure = new_figure("Accuracy on the test clips", subtitle)
    ax = figure.add_axes((0.07, 0.11, 0.69, 0.71))
    curves = [
        Curve(name="prototypes", values=prototypes, colour=BLUE, marker="o"),
        Curve(name="parametric head", values=head, colour=RED, marker="s"),
    ]
    ends = draw_curves(ax, curves)
    if prototypes_before is not None:
        epoch = max(prototypes, default=total_epochs)
        ax.plot([epoch], [prototypes_before], "o", ms=11, mfc="white", mec=BLUE, mew=2.5, zorder=4)
        ends.append(End(epoch, prototypes_before, f"{percent(prototypes_before)}  prototypes before", BLUE))
    ax.axhline(1 / num_classes, color=MUTED, lw=1.5, ls=(0, (2, 3)), zorder=1)
    ends.append(End(total_epochs + 0.5, 1 / num_classes, f"{percent(1 / num_classes)}  chance", MUTED))
    highest = max([*head.values(), *prototypes.values(), prototypes_before or 0.0, 1 / num_classes])
    style_axes(ax, total_epochs=total_epochs, top=min(1.03, highest * 1.15 + 0.03))
    mark_versions(ax, starts, "labels v")
    write_ends(ax, ends)
    return to_png(figure)


def pseudo_label_picture(
    *,
    subtitle: str,
    precision: Mapping[int, float],
    accuracy_all: Mapping[int, float],
    kept_share: Mapping[int, float],
    ratio: Mapping[int, float],
    online_precision: Mapping[int, float],
    online_share: Mapping[int, float],
    made: Mapping[int, int],
    total_epochs: int,
) -> bytes:
    """Return two charts over epochs: how right the pseudo-labels are, and how many of them are used.

    Args:
        subtitle: What run this is.
        precision: Of the kept clips, by the epoch that labels were made from.
        accuracy_all: Of all clips, kept or not.
        kept_share: Share of the clips that the thresholds kept.
        ratio: r, the global threshold over the largest local one.
        online_precision: Of the parametric head's pseudo-labels that passed, by epoch.
        online_share: Share of the clips whose online pseudo-label passed.
        made: The epoch that each label version was made from.
        total_epochs: Length of the run.
    """
    figure = new_figure("Pseudo-labels", subtitle)
    right = [
        Curve(name="kept", values=precision, colour=BLUE, marker="o"),
        Curve(name="kept or not", values=accuracy_all, colour=SKY, line="--", marker="o"),
        Curve(name="passed online", values=online_precision, colour=RED),
    ]
    used = [
        Curve(name="kept", values=kept_share, colour=BLUE, marker="o"),
        Curve(name="ratio r", values=ratio, colour=GREEN, line="--", marker="D", percent=False),
        Curve(name="passed online", values=online_share, colour=RED),
    ]
    panels = [("How many of them are right", right), ("How many clips they cover", used)]
    panels = [(name, curves) for name, curves in panels if any(curve.values for curve in curves)]
    for index, (name, curves) in enumerate(panels):
        bottom, height = (0.11, 0.66) if len(panels) == 1 else ((0.52, 0.1)[index], 0.27)
        ax = figure.add_axes((0.07, bottom, 0.69, height))
        ends = draw_curves(ax, curves)
        style_axes(ax, total_epochs=total_epochs, top=1.03, last=index == len(panels) - 1)
        mark_versions(ax, made, "labels v", after=True)
        figure.text(0.025, bottom + height + 0.052, name, size=LABEL, color=INK)
        write_ends(ax, ends)
    return to_png(figure)


def draw_curves(ax: Axes, curves: Sequence[Curve]) -> list[End]:
    """Draw the curves that have values; returns where each ends."""
    ends = []
    for curve in curves:
        if not curve.values:
            continue
        epochs = sorted(curve.values)
        values = [curve.values[epoch] for epoch in epochs]
        few = len(epochs) <= 12
        ax.plot(
            epochs,
            values,
            color=curve.colour,
            ls=curve.line,
            lw=3,
            marker=(curve.marker or "o") if few else "",
            ms=9,
            mec="white",
            mew=1.2,
            zorder=3,
            solid_capstyle="round",
        )
        ax.plot(epochs[-1:], values[-1:], "o", color=curve.colour, ms=10, mec="white", mew=1.2, zorder=5)
        text = percent(values[-1]) if curve.percent else f"{values[-1]:.2f}"
        ends.append(End(epochs[-1], values[-1], f"{text}  {curve.name}", curve.colour))
    return ends


def style_axes(ax: Axes, *, total_epochs: int, top: float, last: bool = True) -> None:
    """Set limits, grid and ticks: epochs across, per cent upwards."""
    ax.set_xlim(0.5, total_epochs + 0.5)
    ax.set_ylim(0, top)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    ax.tick_params(labelsize=SMALL, length=0, colors=MUTED, pad=8)
    ax.grid(axis="y", color=FAINT, lw=1)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
    if last:
        ax.set_xlabel("epoch", size=LABEL, color=INK)
    else:
        ax.tick_params(labelbottom=False)


def mark_versions(ax: Axes, epochs: Mapping[int, int], name: str, *, after: bool = False) -> None:
    """Draw a vertical line where a label version begins to be used (before its epoch), or is made (`after` it)."""
    drawn = -1.0
    lowest, highest = ax.get_xlim()
    first = True
    for version, epoch in sorted(epochs.items()):
        x = float(epoch) if after else epoch - 0.5
        ax.axvline(x, color=MUTED, lw=1.2, alpha=0.55, zorder=1)
        roomy = (x - drawn) / (highest - lowest) > (0.07 if first else 0.035)
        if first or roomy:
            text = f"{name}{version}" if first else f"v{version}"
            ax.text(x, 1.015, text, transform=ax.get_xaxis_transform(), size=SMALL, color=MUTED, ha="center")
            drawn, first = x, False


def write_ends(ax: Axes, ends: Sequence[End]) -> None:
    """Write each last value to the right of the axes at its height, moved apart where texts would overlap."""
    low, high = ax.get_ylim()
    gap = (high - low) * 1.5 * LABEL / 72 / (ax.get_position().height * HEIGHT / DPI)
    ends = sorted(ends, key=lambda end: end.value)
    line = {"arrowstyle": "-", "lw": 1, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 3}
    heights = spread([end.value for end in ends], gap=gap, low=low, high=high)
    for end, height in zip(ends, heights, strict=True):
        ax.annotate(
            end.text,
            xy=(end.epoch, end.value),
            xytext=(1.035, height),
            textcoords=ax.get_yaxis_transform(),
            size=LABEL,
            color=end.colour,
            va="center",
            parse_math=False,
            arrowprops=line | {"color": end.colour},
            annotation_clip=False,
        )


def spread(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Return ascending values moved as little as needed to lie `gap` apart, inside [low, high] if they fit."""
    placed: list[list[float]] = []
    # Clusters of texts that touch share the centre of the places they wanted.
    for value in values:
        placed.append([value])
        while len(placed) > 1 and _first(placed[-1], gap) - _last(placed[-2], gap) < gap:
            top = placed.pop()
            placed[-1] += top
    out = [start + gap * i for group in placed for start in (_first(group, gap),) for i in range(len(group))]
    for i, bound in enumerate(low + gap * i for i in range(len(out))):
        out[i] = max(out[i], bound)
    for i in range(len(out) - 1, -1, -1):
        out[i] = min(out[i], high - gap * (len(out) - 1 - i))
    return out


def percent(value: float) -> str:
    """Return a share as text."""
    return f"{100 * value:.1f} %"


def _first(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _last(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2
