"""Weak, strong and test views: one draw per clip, applied alike to all its frames, batched on the clips' device.

A strong view is made in this order: crop and flip; then the geometric operations among the RandAugment operations, in
the order drawn; then the colour operations, in the order drawn; then Cutout. Crop, flip and geometric operations are
one affine map, so pixels are interpolated once. What that map brings in from outside the crop is filled.

Every step is either elementwise, without fused multiply-adds, or an exact reduction of integers over one clip, so a
clip's view is the same to the bit in any batch.

Letters: B batch, G some clips of it, T frames, H W stored size, h w shown size, N operations per clip.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aplt.common import colour
from aplt.common.draws import IntArray, uniform

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue values between 0 and 1."""
FILL = (125.0, 123.0, 114.0)
"""What Cutout and empty borders show."""

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
RANGES: dict[str, tuple[float, float]] = {
    "autocontrast": (0.0, 0.0),
    "brightness": (0.05, 0.95),
    "color": (0.05, 0.95),
    "contrast": (0.05, 0.95),
    "equalize": (0.0, 0.0),
    "identity": (0.0, 0.0),
    "posterize": (4.0, 8.0),
    "rotate": (-30.0, 30.0),
    "sharpness": (0.05, 0.95),
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "solarize": (0.0, 256.0),
    "translate_x": (-0.3, 0.3),
    "translate_y": (-0.3, 0.3),
}
"""Operation -> lowest and highest magnitude: bits, degrees, shares of the side, grey values or blending factors."""
OPERATIONS = tuple(RANGES)


def test_view(clips: Tensor, *, crop_size: int) -> Tensor:
    """Return the centre crop of uint8 clips [B, T, H, W, 3], normalised, float32 [B, T, 3, h, w]."""
    height, width = clips.shape[2:4]
    if crop_size > min(height, width):
        raise ValueError(f"crop_size {crop_size} does not fit into clips of {height} x {width} pixels")
    top, left = (height - crop_size) // 2, (width - crop_size) // 2
    return _normalize(_planes(clips[:, :, top : top + crop_size, left : left + crop_size]))


def temporal_gradient(clips: Tensor, following: Tensor) -> Tensor:
    """Return (I_t - I_t+1 + 255) / 2 of uint8 clips [B, T, H, W, 3] and the frames that follow theirs, uint8 again.

    No change is 127. LTG (Xiao et al., CVPR 2022), section 3.1.
    """
    return ((clips.to(torch.int16) - following + 255) // 2).to(torch.uint8)


def weak_view(
    clips: Tensor,
    *,
    rows_B: IntArray,
    seed: int,
    epoch: int | IntArray,
    view: str,
    crop_size: int,
    scale: tuple[float, float] = (0.66, 1.0),
    flip: bool = True,
) -> Tensor:
    """Return a random square crop, mirrored with probability 1/2, of uint8 clips [B, T, H, W, 3].

    Its side is U(`scale`) of the shorter side. The result is normalised, float32 [B, T, 3, h, w].
    """
    maps = _crop_maps(clips.shape, uniform(rows_B, 4, seed=seed, epoch=epoch, view=f"{view}/crop"), scale, flip)
    return _normalize(_resample(clips, maps, crop_size))


def strong_view(
    clips: Tensor,
    *,
    rows_B: IntArray,
    seed: int,
    epoch: int | IntArray,
    view: str,
    crop_size: int,
    scale: tuple[float, float] = (0.66, 1.0),
    flip: bool = True,
    num_ops: int = 2,
    cutout: float = 0.5,
) -> Tensor:
    """Return a weak view, changed by `num_ops` RandAugment operations (Cubuk et al. 2020) and Cutout.

    Operations are drawn with replacement, each with a uniform magnitude, as in FixMatch (Sohn et al. 2020). The side
    of Cutout's square is U(0, `cutout`) of the view's. The result is normalised, float32 [B, T, 3, h, w].
    """
    maps = _crop_maps(clips.shape, uniform(rows_B, 4, seed=seed, epoch=epoch, view=f"{view}/crop"), scale, flip)
    chosen_BN, magnitude_BN = _draw_operations(
        uniform(rows_B, 2 * num_ops, seed=seed, epoch=epoch, view=f"{view}/operations")
    )
    inner, moved_B = _operation_maps(chosen_BN, magnitude_BN)
    frames = _resample(clips, maps @ inner, crop_size)
    _fill_outside(frames, inner, np.flatnonzero(moved_B))
    for clip, (numbers, magnitudes) in enumerate(zip(chosen_BN.tolist(), magnitude_BN.tolist(), strict=True)):
        for number, magnitude in zip(numbers, magnitudes, strict=True):
            if (operation := colour.OPERATIONS.get(OPERATIONS[number])) is not None:
                operation(frames[clip], magnitude)
    _cut_out(frames, uniform(rows_B, 3, seed=seed, epoch=epoch, view=f"{view}/cutout"), cutout)
    return _normalize(frames)


def _planes(clips: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] as float32 [B, T, 3, H, W] in 0 to 255, contiguous."""
    return clips.permute(0, 1, 4, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)


def _normalize(frames: Tensor) -> Tensor:
    scale = torch.tensor([1 / (255 * std) for std in STD]).view(3, 1, 1)
    shift = torch.tensor([mean / std for mean, std in zip(MEAN, STD, strict=True)]).view(3, 1, 1)
    return frames.mul_(scale.to(frames.device)).sub_(shift.to(frames.device))


def _crop_maps(
    shape: torch.Size, draws_B4: NDArray[np.float64], scale: tuple[float, float], flip: bool
) -> NDArray[np.float64]:
    """Affine maps [B, 3, 3] from view to clip; both have coordinates (x, y) from -1 to 1 between their outer edges."""
    height, width = shape[2:4]
    side_B = (scale[0] + (scale[1] - scale[0]) * draws_B4[:, 0]) * min(height, width)
    mirror_B = np.where(draws_B4[:, 3] < 0.5, -1.0, 1.0) if flip else np.ones(len(draws_B4))
    maps = np.zeros((len(draws_B4), 3, 3))
    maps[:, 0, 0] = mirror_B * side_B / width
    maps[:, 1, 1] = side_B / height
    maps[:, 0, 2] = (2 * draws_B4[:, 1] - 1) * (1 - side_B / width)
    maps[:, 1, 2] = (2 * draws_B4[:, 2] - 1) * (1 - side_B / height)
    maps[:, 2, 2] = 1
    return maps


def _draw_operations(draws: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers [B, N] of operations and their magnitudes [B, N] from draws [B, 2 N]."""
    choice_BN, height_BN = np.split(draws, 2, axis=1)
    chosen_BN = (choice_BN * len(OPERATIONS)).astype(np.int64)
    low_BN, high_BN = np.moveaxis(np.array(list(RANGES.values()))[chosen_BN], -1, 0)
    return chosen_BN, low_BN + (high_BN - low_BN) * height_BN


def _operation_maps(
    chosen_BN: NDArray[np.int64], magnitude_BN: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Affine maps [B, 3, 3] from the view after all geometric operations to the view before them, and who has any.

    Looking a pixel up goes backwards through the operations, so their maps multiply in the order in which they act.
    """
    maps = np.tile(np.eye(3), (len(chosen_BN), 1, 1))
    moved_B = np.zeros(len(chosen_BN), dtype=bool)
    for step in range(chosen_BN.shape[1]):
        for name in GEOMETRIC:
            clips_G = np.flatnonzero(chosen_BN[:, step] == OPERATIONS.index(name))
            magnitude_G = magnitude_BN[clips_G, step]
            one = np.tile(np.eye(3), (len(clips_G), 1, 1))
            if name == "rotate":
                cosine_G, sine_G = np.cos(np.deg2rad(magnitude_G)), np.sin(np.deg2rad(magnitude_G))
                one[:, 0, 0], one[:, 0, 1], one[:, 1, 0], one[:, 1, 1] = cosine_G, -sine_G, sine_G, cosine_G
            elif name.startswith("shear"):
                one[:, *((0, 1) if name == "shear_x" else (1, 0))] = magnitude_G
            else:
                one[:, 0 if name == "translate_x" else 1, 2] = 2 * magnitude_G  # the side is 2 units long
            maps[clips_G] = maps[clips_G] @ one
            moved_B[clips_G] = True
    return maps, moved_B


def _look_up(maps: NDArray[np.float64], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The x and y [B, h, w] that the maps give for the pixel centres of a view."""
    maps_B33 = torch.from_numpy(maps.astype(np.float32)).to(device)
    centres = (torch.arange(size, device=device, dtype=torch.float32) * 2 + 1) / size - 1
    x_w, y_h1 = centres, centres[:, None]

    def row(number: int) -> Tensor:
        a, b, c = (maps_B33[:, number, column, None, None] for column in range(3))
        return a * x_w + (b * y_h1 + c)

    return row(0), row(1)


def _resample(clips: Tensor, maps: NDArray[np.float64], size: int) -> Tensor:
    """Bilinear values [B, T, 3, h, w] in 0 to 255 of the clips where the maps point, edges repeated."""
    num_clips, num_frames = clips.shape[:2]
    grid = torch.stack(_look_up(maps, size, clips.device), dim=-1)
    # Frames are channels here: the positions and weights of a clip are then worked out once for all its frames.
    channels = _planes(clips).flatten(1, 2)
    values = F.grid_sample(channels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return values.view(num_clips, num_frames, 3, size, size)


def _fill_outside(frames: Tensor, inner: NDArray[np.float64], clips_G: NDArray[np.int64]) -> None:
    """Fill the pixels of `frames` that the operations' maps look up outside the crop."""
    if not len(clips_G):
        return
    x_Ghw, y_Ghw = _look_up(inner[clips_G], frames.shape[-1], frames.device)
    outside_Ghw = (x_Ghw.abs() > 1) | (y_Ghw.abs() > 1)
    fill = torch.tensor(FILL, device=frames.device).view(3, 1, 1)
    for position, clip in enumerate(clips_G):
        frames[clip] = torch.where(outside_Ghw[position], fill, frames[clip])


def _cut_out(frames: Tensor, draws_B3: NDArray[np.float64], cutout: float) -> None:
    """Paint one square per clip; its centre may lie anywhere, and what hangs over the edge is lost."""
    size = frames.shape[-1]
    fill = torch.tensor(FILL, device=frames.device).view(3, 1, 1)
    half_B1 = cutout * draws_B3[:, :1] * size / 2
    centre_B2 = draws_B3[:, 1:] * size
    first_B2 = np.clip(np.round(centre_B2 - half_B1), 0, size).astype(np.int64)
    last_B2 = np.clip(np.round(centre_B2 + half_B1), 0, size).astype(np.int64)
    for clip, ((top, left), (bottom, right)) in enumerate(zip(first_B2.tolist(), last_B2.tolist(), strict=True)):
        frames[clip, :, :, top:bottom, left:right] = fill
