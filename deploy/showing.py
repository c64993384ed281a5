"""Pictures of prepared data for people: frames of every class, clips by class and part, lengths, sizes and frame rates.

They show the classes of all clips, the unlabelled ones too: that is what somebody needs who looks at their own data.
Nothing that trains reads them.

T frames, S side of a clip in pixels, K classes, P parts. Places and sizes are pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

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
    WIDTH,
    Weight,
    draw_strip,
    drawable,
    fitted,
    new_figure,
    pixel_axes,
    printable,
    text_width,
    to_png,
)
from aplt.common.draws import centre_frames
from aplt.common.errors import DataError
from aplt.deploy.overview import PARTS, Overview

COLOURS = (BLUE, SKY, ORANGE, "#9A9A9A", RED)
"""By part."""
MAX_CLASSES = 600
"""More are not drawn: the first ones on contact sheets, the most frequent ones in the histogram."""
OWN_PAGES = 16
"""So many classes have a page each; more share at most `MAX_PAGES`."""
MAX_PAGES, CLASSES_PER_PAGE = 24, 10
CLIPS_ON_OWN_PAGE, CLIPS_IN_BAND = 6, 3
MAX_BARS = 9

_LEFT, _RIGHT, _TOP, _LEGEND = 40, 1560, 132, 140
_PITCH = 33
_TEXT, _FINE = 12.5, 11.0  # points
Frames = NDArray[np.uint8]


def show(overview: Overview, *, crop_size: int, out: Path) -> Iterator[Path]:
    """Draw all pictures into the folder `out`, yielding each when it is written.

    Args:
        overview: What to show.
        crop_size: Side of what the network sees of a clip.
        out: Made if it is not there; files of the same names are replaced.

    Raises:
        DataError: the folder cannot be written, or a clip is damaged.
    """
    shown = range(min(len(overview.class_names), MAX_CLASSES))
    draw: Callable[[], bytes]
    pages: list[tuple[str, Callable[[], bytes]]] = [
        ("classes.png", partial(class_histogram, overview)),
        ("videos.png", partial(video_picture, overview)),
    ]
    if len(shown) <= OWN_PAGES:
        for label in shown:
            name = re.sub(r"[^A-Za-z0-9._-]+", "_", printable(overview.class_names[label]))[:80]
            draw = partial(class_sheet, overview, label, crop_size=crop_size)
            pages.append((f"clips/{label:02d}_{name}.png", draw))
    else:
        num_pages = min(MAX_PAGES, -(-len(shown) // CLASSES_PER_PAGE))
        for labels in np.array_split(np.array(shown), num_pages):
            name = f"clips/{labels[0]:03d}-{labels[-1]:03d}.png"
            pages.append((name, partial(classes_sheet, overview, labels.tolist(), crop_size=crop_size)))
    for name, draw in pages:
        png = draw()
        try:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(png)
        except OSError as error:
            raise DataError(
                f"{out / name} cannot be written ({error.strerror}): choose another folder with --out"
            ) from None
        yield out / name


def class_sheet(overview: Overview, label: int, *, crop_size: int) -> bytes:
    """Return the contact sheet of one class: a clip a line, with its id, part and measures beside its frames."""
    rows = overview.pick(label, CLIPS_ON_OWN_PAGE)
    strip_x, step = 370, 170
    figure = new_figure(overview.class_names[label], _counts(overview, label), height=_TOP + max(1, len(rows)) * step)
    ax = pixel_axes(figure)
    if not rows:
        _write(ax, _LEFT, _TOP + 20, "no clip of this class can be shown", size=LABEL, color=MUTED)
    for number, row in enumerate(rows):
        y = _TOP + number * step
        clip, part = overview.data.manifest[row], overview.parts_N[row]
        width = strip_x - _LEFT - 20
        ax.add_patch(Rectangle((_LEFT, y), 8, step - 20, color=COLOURS[part], lw=0))
        x, width = _LEFT + 20, width - 20
        _write(ax, x, y + 18, _clip_name(overview, row), width=width, size=_TEXT, weight="bold", keep="end")
        about = [PARTS[part], f"group {clip.group}" if clip.group else "", _length(overview, row)]
        about.append(f"{clip.width} × {clip.height}")
        for line, text in enumerate(text for text in about if text):
            _write(ax, x, y + 48 + 24 * line, text, width=width, size=_TEXT, color=MUTED)
        frames = _shown_frames(overview, row, crop_size)
        draw_strip(ax, frames, x=strip_x, y=y, width=_RIGHT - strip_x, height=step - 20)
    return to_png(figure)


def classes_sheet(overview: Overview, labels: Sequence[int], *, crop_size: int) -> bytes:
    """Return one contact sheet of several classes: a band each, with a few clips side by side."""
    step, frame, gap = 138, 62, 24
    figure = new_figure(
        f"Classes {labels[0]} to {labels[-1]} of {len(overview.data.class_names)}",
        f"{overview.prepared.name} · split {overview.split} · middle frames as the network sees them in tests",
        height=_TOP + 54 + len(labels) * step,
    )
    ax = pixel_axes(figure)
    _legend(ax, _LEGEND, overview.counts()[list(labels)].sum(0))
    width = (_RIGHT - _LEFT - (CLIPS_IN_BAND - 1) * gap) / CLIPS_IN_BAND
    for band, label in enumerate(labels):
        top = _TOP + 54 + band * step
        name = fitted(overview.class_names[label], 700, size=SMALL, weight="bold")
        _write(ax, _LEFT, top, name, size=SMALL, weight="bold")
        x = _LEFT + text_width(name, size=SMALL, weight="bold") + 20
        rows = overview.pick(label, CLIPS_IN_BAND)
        about = _counts(overview, label) + ("" if rows else ", none of which can be shown")
        _write(ax, x, top, about, width=_RIGHT - x, size=_TEXT, color=MUTED)
        for column, row in enumerate(rows):
            x = _LEFT + column * (width + gap)
            _mark(ax, x, top + 30, overview.parts_N[row])
            _write(ax, x + 18, top + 30, _clip_name(overview, row), width=width - 18, size=_FINE, keep="end")
            draw_strip(ax, _shown_frames(overview, row, crop_size), x=x, y=top + 42, width=width, height=frame)
    return to_png(figure)


def class_histogram(overview: Overview) -> bytes:
    """Return bars of the clips of every class by part, the most frequent class first, with their numbers."""
    counts_KP = overview.counts()
    order = np.argsort(-counts_KP.sum(1), kind="stable")
    shown, left_out = order[:MAX_CLASSES], order[MAX_CLASSES:]
    columns = 1 if len(shown) <= 40 else 2 if len(shown) <= 60 else 3
    per_column = -(-len(shown) // columns)
    pitch, size = (32, SMALL) if len(shown) <= 20 else (24, _TEXT) if columns == 1 else (22, _FINE)
    subtitle = f"{overview.prepared.name} · {len(overview.data.class_names)} classes · split {overview.split}"
    if len(left_out):
        subtitle += f" · {len(left_out)} classes with {counts_KP[left_out].sum(1).max()} clips or fewer are left out"
    figure = new_figure("Clips of each class", subtitle, height=_TOP + 86 + per_column * pitch)
    ax = pixel_axes(figure)
    parts = _legend(ax, _LEGEND, counts_KP.sum(0))
    gap = 44
    width = (_RIGHT - _LEFT - gap * (columns - 1)) / columns
    number = 12 + max(text_width(f"{count:,}", size=size) for count in (0, counts_KP.max()))
    names_width = min(0.5 * width, 480, max(_width(overview.class_names[label], size) for label in shown)) + 14
    bars = width - names_width - number * len(parts) - 6
    longest = max(1, counts_KP.sum(1).max())
    for column in range(columns):
        left = _LEFT + column * (width + gap)
        right = left + width
        for place, part in enumerate(reversed(parts)):
            _mark(ax, right - place * number - 11, _TOP + 48, part)
        for row, label in enumerate(shown[column * per_column : (column + 1) * per_column]):
            y = _TOP + 62 + (row + 0.5) * pitch
            _write(ax, left, y, overview.class_names[label], width=names_width - 14, size=size)
            x = left + names_width
            for place, part in enumerate(parts):
                count = counts_KP[label, part]
                length = bars * count / longest
                ax.add_patch(Rectangle((x, y - 0.36 * pitch), length, 0.72 * pitch, color=COLOURS[part], lw=0))
                x += length
                at = right - (len(parts) - 1 - place) * number
                _write(ax, at, y, f"{count:,}", size=size, ha="right", color=INK if count else FAINT)
    return to_png(figure)


def video_picture(overview: Overview) -> bytes:
    """Return lengths, frame sizes and frame rates of the clips that can be used, and why the others cannot."""
    shapes = {"landscape": BLUE, "portrait": ORANGE, "square": GREEN}
    sizes = overview.frame_sizes()
    size_bars = [(f"{width} × {height}", count, shapes[_shape(width, height)]) for (width, height), count in sizes]
    rate_bars = [("not known" if rate is None else f"{rate:g}", count, PINK) for rate, count in overview.frame_rates()]
    bad_bars = [(reason, count, RED) for reason, count in overview.bad_reasons()]
    low, half = 540, (_RIGHT - _LEFT - 80) / 2
    right = _RIGHT - half
    height = low + 50 + _PITCH * min(MAX_BARS, max(1, len(size_bars), len(rate_bars)))
    figure = new_figure("Videos", f"{overview.prepared.name} · {len(overview.parts_N):,} clips", height=height)
    ax = pixel_axes(figure)
    _draw_lengths(figure, ax, overview, width=half if bad_bars else _RIGHT - _LEFT)
    if bad_bars:
        title = f"In quarantine: {len(overview.reasons):,} clips"
        _draw_bars(ax, title, bad_bars, x=right, y=_TOP, width=half)
    numbers = {shape: sum(count for size, count in sizes if _shape(*size) == shape) for shape in shapes}
    title = "Frame sizes: " + ", ".join(f"{count:,} {shape}" for shape, count in numbers.items() if count)
    _draw_bars(ax, title, size_bars, x=_LEFT, y=low, width=half)
    _draw_bars(ax, "Frames per second", rate_bars, x=right, y=low, width=half)
    return to_png(figure)


def _draw_lengths(figure: Figure, ax: Axes, overview: Overview, *, width: float) -> None:
    """Draw how many clips are how long."""
    lengths, unit, left_out = overview.lengths()
    _write(ax, _LEFT, _TOP, f"Clips by length in {unit}", size=LABEL, weight="bold")
    if not len(lengths):
        _write(ax, _LEFT, _TOP + 40, "no clip can be used", size=SMALL, color=MUTED)
        return
    step = 1.0 if unit == "frames" else 1 / float(np.nanmedian(overview.data.manifest.fps))
    digits = 0 if unit == "frames" else 1 if np.median(lengths) >= 1 else 2
    low, middle, high = (f"{value:,.{digits}f}" for value in np.quantile(lengths, (0, 0.5, 1)))
    about = f"{low} to {high}, median {middle}"
    # Few very long clips would squeeze all others into one bar.
    most = 1.65 * float(np.quantile(lengths, 0.99))
    if lengths.max() > most:
        about += f"; the last bar holds {(lengths > most).sum():,} longer ones"
    if left_out:
        about += f"; {left_out:,} clips without a frame rate are left out"
    _write(ax, _LEFT, _TOP + 32, about, width=width, size=_TEXT, color=MUTED)
    # Bars are whole frames wide: else some would hold a frame more than their neighbours.
    last = min(float(lengths.max()), most)
    step *= max(1, round(last / step / 40))
    edges = (np.arange(int(last / step + 0.5) + 2) - 0.5) * step
    height = figure.bbox.height
    panel = figure.add_axes(((_LEFT + 60) / WIDTH, 1 - 460 / height, (width - 60) / WIDTH, 270 / height))
    panel.hist(np.minimum(lengths, last), bins=edges.tolist(), color=BLUE, edgecolor="white", linewidth=0.8)
    panel.set_xlim(0, edges[-1])
    panel.xaxis.set_major_locator(MaxNLocator(10 if width > 900 else 6, steps=[1, 2, 5, 10]))
    panel.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    panel.tick_params(labelsize=_TEXT, length=0, colors=MUTED, pad=6)
    panel.grid(axis="y", color=FAINT, lw=1)
    panel.set_axisbelow(True)
    for side, spine in panel.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)


def _draw_bars(ax: Axes, title: str, bars: Sequence[tuple[str, int, str]], *, x: float, y: float, width: float) -> None:
    """Draw a list of (name, number, colour) as bars, those that do not fit as one."""
    _write(ax, x, y, title, width=width, size=LABEL, weight="bold")
    if len(bars) > MAX_BARS:
        rest = bars[MAX_BARS - 1 :]
        bars = [*bars[: MAX_BARS - 1], (f"{len(rest)} others", sum(count for _, count, _ in rest), "#9A9A9A")]
    if not bars:
        return
    names = min(0.62 * width, max(_width(name, _TEXT) for name, _, _ in bars)) + 14
    numbers = 10 + max(text_width(f"{count:,}", size=_TEXT) for _, count, _ in bars)
    longest = max(count for _, count, _ in bars)
    for place, (name, count, colour) in enumerate(bars):
        middle = y + 44 + place * _PITCH
        _write(ax, x, middle, name, width=names - 14, size=_TEXT)
        length = (width - names - numbers) * count / longest
        ax.add_patch(Rectangle((x + names, middle - 11), length, 22, color=colour, lw=0))
        _write(ax, x + names + length + 8, middle, f"{count:,}", size=_TEXT)


def _legend(ax: Axes, y: float, counts_P: NDArray[np.int64]) -> list[int]:
    """Draw what the colours mean, with the number of clips; returns the parts that there are."""
    parts = [int(part) for part in np.flatnonzero(counts_P)]
    x: float = _LEFT
    for part in parts:
        text = f"{counts_P[part]:,} {PARTS[part]}"
        _mark(ax, x, y, part)
        _write(ax, x + 18, y, text, size=SMALL)
        x += 18 + text_width(text, size=SMALL) + 36
    return parts


def _mark(ax: Axes, x: float, y: float, part: int) -> None:
    ax.add_patch(Rectangle((x, y - 6), 11, 11, color=COLOURS[part], lw=0))


def _write(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    width: float = WIDTH,
    color: str = INK,
    weight: Weight = "normal",
    keep: Literal["start", "end"] = "start",
    ha: str = "left",
) -> None:
    """Write one line, its middle at `y`, cut off to `width`."""
    text = fitted(text, width, size=size, weight=weight, keep=keep)
    ax.text(x, y, text, size=size, color=color, weight=weight, ha=ha, va="center_baseline", parse_math=False)


def _width(text: str, size: float) -> float:
    return text_width(drawable(text), size=size)


def _counts(overview: Overview, label: int) -> str:
    """Say how many clips a class has in which part."""
    counts_P = overview.counts()[label]
    parts = ", ".join(f"{count:,} {PARTS[part]}" for part, count in enumerate(counts_P.tolist()) if count)
    return f"{counts_P.sum():,} clips" + (f": {parts}" if parts else "")


def _clip_name(overview: Overview, row: int) -> str:
    """Return the id of a clip without the name of its class, which is written above it."""
    return overview.data.manifest.clip_id[row].removeprefix(f"{overview.class_names[overview.labels_N[row]]}/")


def _length(overview: Overview, row: int) -> str:
    """Say how long a clip is."""
    frames, fps = int(overview.data.manifest.lengths[row]), float(overview.data.manifest.fps[row])
    return f"{frames / fps:.1f} s, {frames} frames" if fps > 0 else f"{frames} frames"


def _shape(width: int, height: int) -> str:
    return "square" if width == height else "landscape" if width > height else "portrait"


def _shown_frames(overview: Overview, row: int, crop_size: int) -> Frames:
    """Return what tests show the network of a clip, [T, S, S, 3]: the middle frames of its segments, centre crop."""
    clips = overview.data.clips
    frames_1T = centre_frames(1, num_segments=clips.num_segments, frames_per_segment=clips.frames_per_segment)
    first = (clips.size - crop_size) // 2
    crop = slice(first, first + crop_size)
    shown: Frames = clips.read(np.array([row], dtype=np.int32))[0, frames_1T[0], crop, crop]
    return shown
