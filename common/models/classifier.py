"""A network over frames or clips, made into a clip classifier; temporal shift.

Letters: B batch, T frames, C channels, H W height and width, D features, K classes. The frames of a clip are adjacent.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


class Backbone(nn.Module):
    """Turns frames [B*T, 3, H, W] of clips with T frames each into [B*T, D], or [B, D] if it looks at clips whole."""

    if TYPE_CHECKING:  # torchvision, whose networks these are, is untyped

        def __getattr__(self, name: str) -> Any: ...

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Return the features."""
        return self.stages(frames, num_frames)[0]

    def stages(self, frames: Tensor, num_frames: int) -> tuple[Tensor, list[Tensor]]:
        """Return the features, and the maps [B*T, C, H, W] or [B, C, T, H, W] that its four stages end with."""
        raise NotImplementedError

    def narrower(self) -> Backbone:
        """Return a backbone of the same kind with half the channels and first weights of its own, on the CPU.

        This is for convolutions and batch norm; other layers need their own.
        """
        narrow = copy.deepcopy(self)
        for module in narrow.modules():
            if isinstance(module, _ConvNd):
                module.out_channels //= 2
                module.in_channels //= 1 if module.in_channels == 3 else 2
                shape = (module.out_channels, module.in_channels, *module.kernel_size)
                module.weight = nn.Parameter(nn.init.kaiming_normal_(torch.empty(shape), mode="fan_out"))
            elif isinstance(module, _BatchNorm):
                module.num_features //= 2
                for value in (*module.parameters(), *module.buffers()):
                    value.data = value.new_empty(module.num_features if value.dim() else (), device="cpu")
                module.reset_parameters()
        return narrow


class VideoClassifier(nn.Module):
    """Clips [B, T, 3, H, W] to (features [B, D], logits [B, K]).

    A clip's features are the mean of its frames' features; the logits are a linear function of them, without dropout,
    or with a `CosineHead` their cosines with a direction for each class.
    """

    def __init__(self, backbone: Backbone, *, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.num_classes = num_classes
        self.backbone = backbone
        self.head: nn.Linear | CosineHead = nn.Linear(feature_dim, num_classes)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of clips with any number of frames, of any size."""
        num_clips, num_frames = clips.shape[:2]
        features = self.backbone(clips.flatten(0, 1), num_frames)
        features_BD = features.view(num_clips, -1, self.feature_dim).mean(1)
        return features_BD, self.head(features_BD)

    def stages(self, clips: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return features and logits, and the maps [B*T, C, H, W] or [B, C, T, H, W] that the stages end with."""
        num_clips, num_frames = clips.shape[:2]
        features, maps = self.backbone.stages(clips.flatten(0, 1), num_frames)
        features_BD = features.view(num_clips, -1, self.feature_dim).mean(1)
        return features_BD, self.head(features_BD), maps

    def narrower(self) -> VideoClassifier:
        """Return a network of the same kind with half the channels and first weights of its own, on the CPU."""
        return VideoClassifier(
            self.backbone.narrower(), feature_dim=self.feature_dim // 2, num_classes=self.num_classes
        )

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
            return self.scale * F.linear(F.normalize(features_BD.to(self.weight.dtype)), F.normalize(self.weight))


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
