"""The common look of all pictures: 1600 pixels wide, colours that colour-blind people can tell apart, any text.

T frames, S side of a clip in pixels.
"""

from __future__ import annotations

from bisect import bisect_right
from io import BytesIO
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray

WIDTH, HEIGHT, DPI = 1600, 900, 100

# Okabe and Ito's palette, and greys.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PINK = "#56B4E9", "#B0558A"
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#DDDDDD"

TITLE, LABEL, SMALL = 24, 17, 15
"""Font sizes in points."""

STRIP_FRAMES = 8
Weight = Literal["normal", "bold"]


def new_figure(title: str, subtitle: str, *, height: int = HEIGHT) -> Figure:
    """Return a figure of so many pixels with a heading; pyplot is not touched, so threads do not disturb each other."""
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    x, top, below = 0.025, 1 - 25 / height, 1 - 75 / height
    title = fitted(title, 0.95 * WIDTH, size=TITLE, weight="bold")
    figure.text(x, top, title, size=TITLE, weight="bold", color=INK, va="top", parse_math=False)
    subtitle = fitted(subtitle, 0.95 * WIDTH, size=LABEL)
    figure.text(x, below, subtitle, size=LABEL, color=MUTED, va="top", parse_math=False)
    return figure


def pixel_axes(figure: Figure) -> Axes:
    """Return invisible axes over the whole figure that count pixels from its upper left corner."""
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.patch.set_visible(False)
    ax.set_xlim(0, figure.bbox.width)
    ax.set_ylim(figure.bbox.height, 0)
    ax.set_autoscale_on(False)
    return ax


def draw_strip(
    ax: Axes, frames: NDArray[np.uint8], *, x: float, y: float, width: float, height: float
) -> tuple[float, float]:
    """Draw frames [T, S, S, 3] side by side on `pixel_axes`, as large as fits; returns width and height in pixels."""
    strip = strip_of(frames)
    scale = min(height / strip.shape[0], width / strip.shape[1])
    width, height = strip.shape[1] * scale, strip.shape[0] * scale
    strip = _shrunk(
        strip, max(1, int(1 / scale))
    )  # a page of clips as they are stored would take hundreds of megabytes
    ax.imshow(strip, extent=(x, x + width, y + height, y), interpolation="antialiased", aspect="auto", zorder=2)
    return width, height


def strip_of(frames: NDArray[np.uint8], *, num_frames: int = STRIP_FRAMES) -> NDArray[np.uint8]:
    """Return frames [T, S, S, 3] side by side with white gaps, at most `num_frames` of them, equally spaced."""
    if len(frames) > num_frames:
        frames = frames[np.linspace(0, len(frames) - 1, num_frames).round().astype(int)]
    gap = max(1, frames.shape[2] // 30)
    padded = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    strip: NDArray[np.uint8] = np.concatenate(list(padded), axis=1)[:, :-gap]
    return strip


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def text_width(text: str, *, size: float, weight: Weight = "normal") -> float:
    """Return the pixels that a line of drawable text takes across."""
    font = _font(weight)
    font.set_size(size, DPI)
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64


def fitted(
    text: str, width: float, *, size: float, weight: Weight = "normal", keep: Literal["start", "end"] = "start"
) -> str:
    """Return the drawable text, so much of it cut off that it is at most `width` pixels wide."""
    text = drawable(text)
    if text_width(text, size=size, weight=weight) <= width:
        return text

    def shown(length: int) -> str:
        return f"{text[:length]}…" if keep == "start" else f"…{text[len(text) - length :]}"

    lengths = range(1, len(text))
    return shown(bisect_right(lengths, width, key=lambda n: text_width(shown(n), size=size, weight=weight)))


def shorten(text: str, length: int) -> str:
    """Return the drawable text, its end cut off if it has more characters than this."""
    text = drawable(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def drawable(text: str) -> str:
    """Return the text as one line, with what the font has no picture of replaced."""
    font = _font("normal")
    return "".join(char if char.isprintable() and font.get_char_index(ord(char)) else "?" for char in text)


def printable(text: str) -> str:
    """Return the text with what is not UTF-8 (file names may hold any bytes) replaced."""
    return text.encode("utf-8", "replace").decode()


def _shrunk(picture: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """Return the means of blocks of `times` x `times` pixels of a picture [h, w, 3]."""
    h, w = picture.shape[0] // times, picture.shape[1] // times
    blocks = picture[: h * times, : w * times].reshape(h, times, w, times, 3)
    return np.asarray(blocks.mean((1, 3), dtype=np.float32).round(), np.uint8)


def _font(weight: Weight) -> FT2Font:
    return get_font(findfont(FontProperties(weight=weight)))  # one of this thread's own
