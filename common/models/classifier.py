"""A network over frames or clips, made into a clip classifier; temporal shift.

Letters: B batch, T frames, C channels, H W height and width, D features, K classes. The frames of a clip are adjacent.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class VideoClassifier(nn.Module):
    """Clips [B, T, 3, H, W] to (features [B, D], logits [B, K]).

    `backbone(frames, num_frames)` turns frames [B*T, 3, H, W] of clips with `num_frames` frames each into [B*T, D], or
    into [B, D] if it looks at clips whole. A clip's features are the mean of its frames' features; the logits are a
    linear function of them, without dropout, or with a `CosineHead` their cosines with a direction for each class.
    """

    def __init__(self, backbone: nn.Module, *, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.backbone = backbone
        self.head: nn.Linear | CosineHead = nn.Linear(feature_dim, num_classes)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of clips with any number of frames, of any size."""
        num_clips, num_frames = clips.shape[:2]
        features = self.backbone(clips.flatten(0, 1), num_frames)
        features_BD = features.view(num_clips, -1, self.feature_dim).mean(1)
        return features_BD, self.head(features_BD)

    def channels_last(self) -> Self:
        """Store kernels, and by that all that the convolutions compute, with the channels last; returns itself.

        `nn.Module.to` cannot: it refuses networks that have kernels with time.
        """
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        for parameter in self.parameters():
            if parameter.dim() in formats:
                parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
        return self


class CosineHead(nn.Module):
    """Features [B, D] to logits [B, K]: their cosine with the weights of each class, times a learnt scale.

    The scale starts at 1 / 0.07, as in CLIP (Radford et al. 2021). Always in full precision.
    """

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Linear(feature_dim, num_classes, bias=False).weight
        self.scale = nn.Parameter(torch.tensor(1 / 0.07))

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return the logits."""
        with torch.autocast(features_BD.device.type, enabled=False):
            return self.scale * F.linear(F.normalize(features_BD.float()), F.normalize(self.weight))


def temporal_shift(frames: Tensor, num_frames: int) -> Tensor:
    """Return features [B*T, C, H, W] with some channels taken from the neighbouring frames of the same clip.

    The first eighth of the channels comes from the next frame, the second eighth from the previous one, and the rest
    stays; frames beyond the ends count as zeros (TSM, Lin et al. 2019, section 3.2).
    """
    shifted: Tensor = _Shift.apply(frames, num_frames)
    return shifted


class _Shift(torch.autograd.Function):
    """One copy forward and one backward; autograd through slices would keep and add up several."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, num_frames: int) -> Tensor:
        ctx.num_frames = num_frames
        return _moved(frames, num_frames, earlier=slice(0, frames.shape[1] // 8))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # What came from the next frame goes back to it: the same move with the two eighths exchanged.
        eighth = gradients[0].shape[1] // 8
        return _moved(gradients[0], ctx.num_frames, earlier=slice(eighth, 2 * eighth)), None


def _moved(frames: Tensor, num_frames: int, *, earlier: slice) -> Tensor:
    """A copy whose channels `earlier` moved one frame to the front, and the other eighth one frame to the back."""
    eighth = frames.shape[1] // 8
    later = slice(eighth, 2 * eighth) if earlier.start == 0 else slice(0, eighth)
    moved = frames.clone()
    shape = (-1, num_frames, *frames.shape[1:])
    source, target = frames.view(shape), moved.view(shape)
    target[:, :-1, earlier] = source[:, 1:, earlier]
    target[:, -1, earlier] = 0
    target[:, 1:, later] = source[:, :-1, later]
    target[:, 0, later] = 0
    return moved
