"""One picture per class: the clips that a label version is surest of, and those on either side of its threshold.

Letters: N unlabelled clips, B clips on a sheet, T frames, S side of a stored clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from aplt.common.artifacts import LabelVersion
from aplt.common.drawing import (
    BLUE,
    FAINT,
    HEIGHT,
    INK,
    LABEL,
    MUTED,
    RED,
    SMALL,
    WIDTH,
    draw_strip,
    drawable,
    new_figure,
    pixel_axes,
    shorten,
    to_png,
)
from aplt.labeler.pictures import percent

ROWS = 6
GROUPS = ("Nearest to the centre", "Just inside the threshold", "Just outside")
Frames = NDArray[np.uint8]
# Pixels: eight square frames of height _FRAME with their gaps are as wide as a column.
_FRAME, _COLUMN, _GAP, _LEFT, _TOP, _STEP = 57, 468, 58, 40, 203, 88


def contact_sheet(
    labels: LabelVersion,
    label: int,
    *,
    subtitle: str,
    class_names: tuple[str, ...],
    clip_ids: tuple[str, ...],
    truth: NDArray[np.int16],
    read: Callable[[NDArray[np.int32]], Frames],
) -> bytes:
    """Return the picture of class `label`.

    Args:
        labels: The label version to show.
        label: The class.
        subtitle: What run this is.
        class_names: Names by class.
        clip_ids: Names by manifest row.
        truth: Known classes by manifest row, -1 where unknown.
        read: Returns the frames [B, T, S, S, 3] of the clips in these manifest rows.
    """
    of_class = labels.labels_N == label
    truth_N = truth[labels.rows_N]
    relative_N = relative_distances(labels)
    figure = new_figure(f"{shorten(class_names[label], 40)}: clips with this pseudo-label", subtitle)
    summary = _describe(labels, of_class, truth_N, label)
    figure.text(_LEFT / WIDTH, 1 - 118 / HEIGHT, summary, size=SMALL, color=INK, va="top", parse_math=False)
    ax = pixel_axes(figure)
    groups = pick_clips(labels, label, num=ROWS)
    for column, (name, picked_B) in enumerate(zip(GROUPS, groups, strict=True)):
        x = _LEFT + column * (_COLUMN + _GAP)
        ax.text(x, _TOP - 22, name, size=LABEL, weight="bold", color=INK, va="bottom")
        if not len(picked_B):
            ax.text(x, _TOP + 20, "no clip", size=SMALL, color=MUTED, va="top")
            continue
        clips = read(labels.rows_N[picked_B])
        for row, (index, frames) in enumerate(zip(picked_B, clips, strict=True)):
            actual = int(truth_N[index])
            mark, colour = _verdict(actual, label, class_names)
            y = _TOP + row * _STEP
            caption = f"{_short(clip_ids[labels.rows_N[index]], 18)}   {relative_N[index]:.3f}"
            ax.text(x, y, caption, size=12.5, color=INK, va="center", parse_math=False)
            ax.text(
                x + _COLUMN, y, _short(mark, 24), size=12.5, color=colour, va="center", ha="right", parse_math=False
            )
            width, height = draw_strip(ax, frames, x=x, y=y + 14, width=_COLUMN, height=_FRAME)
            ax.add_patch(Rectangle((x, y + height + 15), width, 4, color=colour, lw=0))
    _draw_histogram(figure.add_axes((0.025, 0.065, 0.95, 0.105)), relative_N[of_class], truth_N[of_class], label)
    return to_png(figure)


def pick_clips(labels: LabelVersion, label: int, *, num: int) -> tuple[NDArray[np.int64], ...]:
    """Return up to `num` indices into the version's clips for each group: nearest, just inside, just outside.

    The first two never share a clip; those on either side of the threshold begin with the one next to it.
    """
    of_class = np.flatnonzero(labels.labels_N == label)
    ordered = of_class[np.argsort(labels.distances_N[of_class], kind="stable")]
    kept_N, dropped_N = ordered[labels.kept_N[ordered]], ordered[~labels.kept_N[ordered]]
    nearest = kept_N[: min(num, (len(kept_N) + 1) // 2)]
    inside = kept_N[len(nearest) :][-num:][::-1]
    return nearest, inside, dropped_N[:num]


def relative_distances(labels: LabelVersion) -> NDArray[np.float64]:
    """Return each clip's distance over the threshold of its class: below 1 is kept; without a threshold all are 1."""
    threshold_N = labels.adaptive_K[labels.labels_N].astype(np.float64)
    ones_N = np.ones(len(threshold_N))
    return np.divide(labels.distances_N.astype(np.float64), threshold_N, out=ones_N, where=threshold_N > 0)


def _verdict(actual: int, label: int, class_names: tuple[str, ...]) -> tuple[str, str]:
    if actual < 0:
        return "", FAINT
    return ("✓", BLUE) if actual == label else (f"✗ is {class_names[actual]}", RED)


def _describe(labels: LabelVersion, of_class: NDArray[Any], truth_N: NDArray[np.int16], label: int) -> str:
    kept = of_class & labels.kept_N
    text = (
        f"labels v{labels.version}: {of_class.sum()} clips, {kept.sum()} kept, "
        f"threshold {labels.adaptive_K[label]:.3f} (numbers below: distance / threshold)"
    )
    known = kept & (truth_N >= 0)
    if known.any():
        text += f", {percent(float((truth_N[known] == label).mean()))} of the kept are right"
    return text


def _draw_histogram(ax: Axes, relative_N: NDArray[np.float64], truth_N: NDArray[np.int16], label: int) -> None:
    """Draw how far the clips of the class lie from its centre, in units of the threshold."""
    parts = [("right", BLUE, truth_N == label), ("wrong", RED, (truth_N >= 0) & (truth_N != label))]
    parts.append(("unknown", "#9A9A9A", truth_N < 0))
    parts = [(name, colour, chosen) for name, colour, chosen in parts if chosen.any()]
    furthest = max(1.3, float(np.ceil(np.quantile(relative_N, 0.995) * 20) / 20)) if len(relative_N) else 1.3
    if parts:
        ax.hist(
            [np.minimum(relative_N[chosen], furthest - 1e-6) for _, _, chosen in parts],
            bins=np.linspace(0, furthest, round(furthest * 20) + 1).tolist(),
            stacked=True,
            color=[colour for _, colour, _ in parts],
            edgecolor="white",
            linewidth=0.5,
        )
    ax.axvline(1, color=INK, lw=2, ls=(0, (3, 2)))
    ax.set_xlim(0, furthest)
    for i, (name, colour, chosen) in enumerate(parts):
        ax.text(
            0.0, 0.95 - 0.27 * i, f"{chosen.sum()} {name}", transform=ax.transAxes, size=SMALL, color=colour, va="top"
        )
    ax.set_yticks([])
    ax.tick_params(labelsize=13, colors=MUTED)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
    ax.set_xlabel("distance / threshold", size=13, color=MUTED, labelpad=1)


def _short(text: str, length: int) -> str:
    text = drawable(text)
    return text if len(text) <= length else f"…{text[1 - length :]}"
