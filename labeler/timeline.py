"""Where the time of both services went, as one picture: a lane each, and a closer look at one change of labels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from aplt.common.drawing import (
    BLUE,
    GREEN,
    INK,
    LABEL,
    MUTED,
    ORANGE,
    PINK,
    RED,
    SKY,
    SMALL,
    new_figure,
    to_png,
)

LANES = ("trainer", "labeler")
COLOURS = {
    "train": BLUE,
    "features": SKY,
    "publish": PINK,
    "extract": ORANGE,
    "cluster": RED,
    "evaluate": GREEN,
    "wait": "#E4E4E4",
}
OTHER = "#9A9A9A"
PAUSE_S = 120.0
"""If neither service did anything for this long, the run was stopped, and the picture leaves the pause out."""


@dataclass(frozen=True)
class Span:
    """One stretch of a service's time, in unix seconds."""

    what: str
    start: float
    seconds: float

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True)
class Clock:
    """Seconds of the run from unix time, without the pauses in which neither service worked."""

    origin: float
    pauses: tuple[tuple[float, float], ...]
    """Start (unix time) and seconds of each."""

    @classmethod
    def of(cls, spans: Sequence[Span], *, shortest_pause_s: float = PAUSE_S) -> Clock:
        """Return the clock of these spans, of which there must be one."""
        ordered = sorted(spans, key=lambda span: span.start)
        pauses, busy_until = [], ordered[0].start
        for span in ordered:
            if span.start - busy_until > shortest_pause_s:
                pauses.append((busy_until, span.start - busy_until))
            busy_until = max(busy_until, span.end)
        return cls(ordered[0].start, tuple(pauses))

    def seconds(self, time: float) -> float:
        """Return how much of the run, pauses left out, lies before a unix time outside the pauses."""
        passed = bisect_right([start for start, _ in self.pauses], time - 1e-9)
        return time - self.origin - sum(length for _, length in self.pauses[:passed])


def timeline_picture(
    *,
    subtitle: str,
    spans: Mapping[str, Sequence[Span]],
    made: Mapping[int, Span],
    num_epochs: int,
) -> bytes:
    """Return two lanes of coloured spans over the time since the start, and a closer look at one change of labels.

    Args:
        subtitle: What run this is.
        spans: By role, `trainer` and `labeler`; together at least one.
        made: The stretch in which each label version was made.
        num_epochs: Finished epochs; bars get their numbers if a span of each is known.
    """
    clock = Clock.of([span for role in LANES for span in spans.get(role, ())])
    total_s = max(clock.seconds(span.end) for role in LANES for span in spans.get(role, ()))
    total_s = max(total_s, 1e-3)
    figure = new_figure("Where the time went", subtitle)
    window = _window(spans, made, clock, total_s)
    ax = figure.add_axes((0.1, 0.6 if window else 0.32, 0.875, 0.22 if window else 0.44))
    _draw_lanes(ax, spans, clock, 0.0, total_s)
    _mark_labels(ax, made, clock, 0.0, total_s)
    _mark_pauses(ax, clock)
    if window:
        version, low, high = window
        ax.axvspan(low, high, facecolor="none", edgecolor=INK, lw=1.5, zorder=6)
        zoom = figure.add_axes((0.1, 0.21, 0.875, 0.22))
        _draw_lanes(zoom, spans, clock, low, high)
        if len(epochs := _epochs(spans)) == num_epochs:
            _number_epochs(zoom, epochs, clock, low, high)
        _mark_labels(zoom, made, clock, low, high)
        figure.text(0.025, 0.486, f"Closer: when labels v{version} were made", size=LABEL, color=INK)
    _write_totals(figure.add_axes((0.1, 0.0, 0.875, 0.12)), spans)
    return to_png(figure)


def _draw_lanes(ax: Axes, spans: Mapping[str, Sequence[Span]], clock: Clock, low: float, high: float) -> None:
    """Draw the spans between two seconds of the run; very short ones are widened to stay visible."""
    narrowest = (high - low) / 700
    for lane, role in enumerate(LANES):
        # Waiting goes to the back: a widened neighbour must not vanish under it.
        for what in ("wait", *(name for name in _names(spans) if name != "wait")):
            of_kind = [(clock.seconds(span.start), span.seconds) for span in spans.get(role, ()) if span.what == what]
            bars = [(start, max(s, narrowest)) for start, s in of_kind if low < start + s and start < high]
            gap = 1.0 if len(bars) < 150 else 0.0
            place = (1 - lane - 0.34, 0.68)
            ax.broken_barh(bars, place, facecolor=COLOURS.get(what, OTHER), edgecolor="white", linewidth=gap)
    ax.set_xlim(low, high)
    ax.set_ylim(-0.5, 1.5)
    ax.set_yticks([1, 0], LANES)
    unit_s, unit = (60.0, "minutes") if high > 180 else (1.0, "seconds")
    if high > 6 * 3600:
        unit_s, unit = 3600.0, "hours"
    ticks = [
        tick
        for tick in MaxNLocator(9, steps=[1, 2, 3, 5, 6, 10]).tick_values(low / unit_s, high / unit_s)
        if low <= tick * unit_s <= high
    ]
    ax.set_xticks([tick * unit_s for tick in ticks], [f"{tick:g}" for tick in ticks])
    ax.set_xlabel(f"{unit} since the start", size=SMALL, color=INK)
    ax.tick_params(axis="x", labelsize=SMALL, colors=MUTED, length=4)
    ax.tick_params(axis="y", labelsize=LABEL, colors=INK, length=0, pad=10)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)


def _mark_labels(ax: Axes, made: Mapping[int, Span], clock: Clock, low: float, high: float) -> None:
    """Mark when each label version was there."""
    drawn = -1.0
    for version, span in sorted(made.items()):
        x = clock.seconds(span.end)
        if low <= x <= high:
            ax.axvline(x, color=INK, lw=1.5, ls=(0, (3, 2)), zorder=5)
            if drawn < 0 or (x - drawn) / (high - low) > 0.03:
                name = f"labels v{version}" if drawn < 0 else f"v{version}"
                align = "right" if x > high - 0.05 * (high - low) else "center"
                ax.text(x, 1.58, name, size=SMALL, color=INK, ha=align)
                drawn = x


def _mark_pauses(ax: Axes, clock: Clock) -> None:
    for start, length in clock.pauses:
        x = clock.seconds(start - 1e-6)
        ax.axvline(x, color="white", lw=6, zorder=7)
        ax.axvline(x, color=INK, lw=2, ls=(0, (1, 1)), zorder=8)
        hours = f"{length / 3600:.1f} h" if length > 5400 else f"{length / 60:.0f} min"
        align = "left" if x < sum(ax.get_xlim()) / 2 else "right"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        shift = 0.006 * (ax.get_xlim()[1] - ax.get_xlim()[0]) * (1 if align == "left" else -1)
        ax.text(
            x + shift, 0.5, f"stopped for {hours}", size=SMALL, color=INK, ha=align, va="center", zorder=9, bbox=box
        )


def _write_totals(ax: Axes, spans: Mapping[str, Sequence[Span]]) -> None:
    """Write a legend that says how long everything took."""
    ax.set_axis_off()
    columns = max(4, *(len({span.what for span in spans.get(role, ())}) for role in LANES))
    for row, role in enumerate(LANES):
        names = [name for name in _names(spans) if any(span.what == name for span in spans.get(role, ()))]
        total_s = {name: sum(span.seconds for span in spans[role] if span.what == name) for name in names}
        whole_s = sum(total_s.values())
        ax.text(-0.012, 0.88 - 0.42 * row, role, size=SMALL, color=MUTED, ha="right", va="center")
        for column, name in enumerate(names):
            x, y = column / columns, 0.88 - 0.42 * row
            share = f" ({100 * total_s[name] / whole_s:.1f} %)" if whole_s else ""
            ax.text(x + 0.018, y, f"{name} {duration(total_s[name])}{share}", size=SMALL, color=INK, va="center")
            ax.plot([x + 0.006], [y], "s", ms=14, color=COLOURS.get(name, OTHER), clip_on=False)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)


def _window(
    spans: Mapping[str, Sequence[Span]], made: Mapping[int, Span], clock: Clock, total_s: float
) -> tuple[int, float, float] | None:
    """Return a label version and two seconds of the run around its making, if that is a small part of the whole."""
    epochs_s = [span.seconds for span in _epochs(spans)]
    if not made or not epochs_s:
        return None
    versions = sorted(made)
    version = versions[(len(versions) - 1) // 2]
    epoch_s = median(epochs_s)
    low = max(0.0, clock.seconds(made[version].start) - 1.3 * epoch_s)
    high = min(total_s, clock.seconds(made[version].end) + 2.3 * epoch_s)
    return (version, low, high) if high - low < total_s / 2.5 else None


def _number_epochs(ax: Axes, epochs: Sequence[Span], clock: Clock, low: float, high: float) -> None:
    for epoch, span in enumerate(epochs, start=1):
        start, end = max(low, clock.seconds(span.start)), min(high, clock.seconds(span.end))
        if end - start > (high - low) / 14:
            ax.text((start + end) / 2, 1, f"epoch {epoch}", size=SMALL, color="white", ha="center", va="center")


def _epochs(spans: Mapping[str, Sequence[Span]]) -> list[Span]:
    return [span for span in spans.get("trainer", ()) if span.what == "train"]


def _names(spans: Mapping[str, Sequence[Span]]) -> list[str]:
    there = {span.what for role in LANES for span in spans.get(role, ())}
    return [name for name in COLOURS if name in there] + sorted(there - COLOURS.keys())


def duration(seconds: float) -> str:
    """Return a length of time as people say it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
