"""RandAugment's colour operations on one clip, in place: float frames [T, 3, h, w] with values from 0 to 255.

They are Pillow's operations on 8-bit images, with two differences: values in between stay fractional, and statistics
(extremes, mean, histogram) are those of the whole clip, so that nothing flickers.

Letters: T frames, h w shown size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def autocontrast(frames: Tensor, _magnitude: float) -> None:
    """Stretch each channel to 0..255; a channel of one value stays as it is."""
    low, high = frames.amin((0, 2, 3), keepdim=True), frames.amax((0, 2, 3), keepdim=True)
    span = high - low
    flat = span == 0
    frames.sub_(low.masked_fill(flat, 0)).mul_((255 / span).masked_fill(flat, 1))


def brightness(frames: Tensor, factor: float) -> None:
    """Blend with black; 1 changes nothing."""
    frames.mul_(factor)


def color(frames: Tensor, factor: float) -> None:
    """Blend with the grey image; 1 changes nothing."""
    grey = _grey(frames)
    frames.mul_(factor).add_(grey.mul_(1 - factor))


def contrast(frames: Tensor, factor: float) -> None:
    """Blend with the mean of the grey image; 1 changes nothing."""
    # A sum of whole numbers is exact in whatever order they are added.
    total = _grey(frames).round_().sum(dtype=torch.float64)
    mean = (total / frames[:, :1].numel()).round().to(frames.dtype)
    frames.mul_(factor).add_(mean * (1 - factor))


def equalize(frames: Tensor, _magnitude: float) -> None:
    """Spread each channel's values evenly over 0..255; a channel of one value stays as it is."""
    offset = torch.arange(3, device=frames.device).view(3, 1, 1) * 256
    index = frames.round_().long().add_(offset)
    histogram = torch.bincount(index.flatten(), minlength=768).view(3, 256)
    below = histogram.cumsum(1) - histogram
    highest = index.amax((0, 2, 3)).sub_(offset.flatten())[:, None]
    step = below.gather(1, highest) // 255
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step == 0, torch.arange(256, device=frames.device), table)
    frames.copy_(table.flatten().to(frames.dtype)[index])


def posterize(frames: Tensor, bits: float) -> None:
    """Keep the highest `bits` (rounded down) of 8."""
    step = 2.0 ** (8 - int(bits))
    frames.round_().div_(step).floor_().mul_(step)


def sharpness(frames: Tensor, factor: float) -> None:
    """Blend with a 3 x 3 blur whose centre counts five times; 1 changes nothing, and neither do the borders."""
    inner = frames[..., 1:-1, 1:-1]
    rows = frames[..., :-2, :] + frames[..., 1:-1, :] + frames[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner.mul_(factor + (1 - factor) * 4 / 13).add_(box.mul_((1 - factor) / 13))


def solarize(frames: Tensor, threshold: float) -> None:
    """Invert the values from `threshold` up."""
    frames.copy_(torch.where(frames < threshold, frames, 255 - frames))


OPERATIONS: dict[str, Callable[[Tensor, float], None]] = {
    "autocontrast": autocontrast,
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "equalize": equalize,
    "posterize": posterize,
    "sharpness": sharpness,
    "solarize": solarize,
}


def _grey(frames: Tensor) -> Tensor:
    """Luma (ITU-R 601) of the frames, [T, 1, h, w]."""
    red, green, blue = frames[:, :1], frames[:, 1:2], frames[:, 2:]
    return (red * 0.299).add_(green * 0.587).add_(blue * 0.114)
