"""A network small enough to train on one CPU core."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from aplt.common.models.classifier import Backbone, VideoClassifier, temporal_shift

STEM = 16
BLOCKS = ((16, 1), (32, 2), (64, 2), (128, 2))
"""Channels and stride of each block."""
STILL, MOTION = 0.3, 3.0
"""How loud a frame and its difference to the mean frame are at first: differences are small, backgrounds are not."""


def tiny_tsm(*, num_classes: int) -> VideoClassifier:
    """Return four residual blocks with temporal shift behind a stem that shrinks frames to a quarter of their side.

    Time on a core goes into memory traffic at high resolution rather than into arithmetic, hence the coarse stem.
    """
    return VideoClassifier(TinyBackbone(), feature_dim=BLOCKS[-1][0], num_classes=num_classes)


class TinyBackbone(Backbone):
    """Frames [B*T, 3, H, W] to features [B*T, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = TinyStem()
        self.norm = nn.BatchNorm2d(STEM)
        widths = (STEM, *(width for width, _ in BLOCKS))
        self.blocks = nn.ModuleList(
            TinyBlock(before, width, stride) for before, (width, stride) in zip(widths, BLOCKS, strict=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, frames: Tensor, num_frames: int) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled features of each frame, and the maps [B*T, C, H, W] of the four blocks."""
        x, maps = F.relu(self.norm(self.stem(frames, num_frames)), inplace=True), []
        for block in self.blocks:
            x = block(x, num_frames)
            maps.append(x)
        return x.mean((2, 3)), maps


class TinyStem(nn.Module):
    """The sum of two convolutions: one sees the frame, one how the frame differs from the mean of its clip.

    From scratch and with few clips, small movements are hard to find behind a static background, and training on plain
    frames may never leave chance; the differences alone lose what a still frame tells.
    """

    def __init__(self) -> None:
        super().__init__()
        self.still = nn.Conv2d(3, STEM, 7, stride=4, padding=3, bias=False)
        self.motion = nn.Conv2d(3, STEM, 7, stride=4, padding=3, bias=False)

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Return still(STILL * frame) + motion(MOTION * (frame - mean)): [B*T, 3, H, W] to [B*T, C, H/4, W/4]."""
        # Convolution is linear, so frames need one kernel, and means, of which there are far fewer, another.
        motion = MOTION * self.motion.weight
        kernel = STILL * self.still.weight + motion
        pixels = frames.detach()
        seen = _convolve(pixels, kernel)
        mean = _convolve(pixels.view(-1, num_frames, *frames.shape[1:]).mean(dim=1), motion)
        clips = seen.view(-1, num_frames, *seen.shape[1:]) - mean[:, None]
        maps = clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        if not frames.requires_grad:
            return maps
        with_pixels: Tensor = _ToPixels.apply(maps, frames, kernel.detach(), motion.detach(), num_frames)
        return with_pixels


class _ToPixels(torch.autograd.Function):
    """The stem's output for `frames`, as it is; gradients flow on to them.

    A convolution back to the three channels of 56 x 56 pixels costs a CPU several times as much as one to the 48
    channels of 14 x 14 blocks of them.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, frames: Tensor, kernel: Tensor, motion: Tensor, num_frames: int) -> Tensor:
        ctx.save_for_backward(kernel, motion)
        ctx.num_frames, ctx.size = num_frames, frames.shape[2:]
        return maps.view_as(maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,), (kernel, motion), (height, width) = gradients, ctx.saved_tensors, ctx.size
        blocks = _convolve_back(gradient, kernel)
        clips = blocks.view(-1, ctx.num_frames, *blocks.shape[1:])
        clips -= _convolve_back(gradient.view(-1, ctx.num_frames, *gradient.shape[1:]).mean(dim=1), motion)[:, None]
        # What `pixel_shuffle` does, which is slow with the channels last.
        pixels = blocks.view(-1, 3, 4, 4, *blocks.shape[2:]).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
        return gradient, pixels[:, :, :height, :width], None, None, None


def _convolve(frames: Tensor, kernel: Tensor) -> Tensor:
    layout = torch.channels_last
    return F.conv2d(
        frames.contiguous(memory_format=layout), kernel.contiguous(memory_format=layout), stride=4, padding=3
    )


def _convolve_back(gradient: Tensor, kernel: Tensor) -> Tensor:
    """Return the gradient of `_convolve` with respect to the frames in blocks of 4 x 4 pixels, [N, 48, H/4, W/4]."""
    # Pixel 4q + r, and with it the block q, was seen by the positions q and q + 1, through 2 x 2 blocks of a kernel of
    # 8 x 8 whose first row and column are zeros.
    blocks = F.pixel_unshuffle(F.pad(kernel.to(gradient.dtype), (1, 0, 1, 0)), 4).flip(2, 3).transpose(0, 1)
    return F.conv2d(F.pad(gradient, (0, 1, 0, 1)), blocks.contiguous(memory_format=torch.channels_last))


class TinyBlock(nn.Module):
    """A basic residual block (He et al. 2016) with the shift before its first convolution."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if before != width or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Return the block's output for frames of clips that have `num_frames` each."""
        y = F.relu(self.norm1(self.conv1(temporal_shift(x, num_frames))), inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)
