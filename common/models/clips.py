"""torchvision's networks that look at a clip whole, in space and time at once. Weights have torchvision's names."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet
from torchvision.models.video.swin_transformer import PatchMerging, SwinTransformer3d

from aplt.common.models.classifier import Backbone, VideoClassifier


def r3d_18(*, num_classes: int) -> VideoClassifier:
    """Return ResNet-18 with 3x3x3 convolutions (R3D, Tran et al. 2018)."""
    return VideoClassifier(R3D18(), feature_dim=512, num_classes=num_classes)


def swin3d_t(*, num_classes: int) -> VideoClassifier:
    """Return Video Swin Transformer, tiny (Liu et al. 2022)."""
    return VideoClassifier(Swin3DTiny(), feature_dim=768, num_classes=num_classes)


class R3D18(Backbone, VideoResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's R3D-18 without its head: frames [B*T, 3, H, W] to features of clips [B, 512]."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [Conv3DSimple] * 4, [2, 2, 2, 2], BasicStem)
        self.fc = nn.Identity()

    def stages(self, frames: Tensor, num_frames: int) -> tuple[Tensor, list[Tensor]]:
        """Return features pooled over space and time, and the maps [B, C, T, H, W] of the four groups of blocks."""
        x, maps = self.stem(_volumes(frames, num_frames)), []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return self.avgpool(x).flatten(1), maps


class Swin3DTiny(Backbone, SwinTransformer3d):  # type: ignore[misc]
    """torchvision's Swin3D-T without its head: frames [B*T, 3, H, W] to features of clips [B, 768].

    A patch covers 2 frames of 4 x 4 pixels, and a window of attention up to 8 x 7 x 7 patches; windows shrink to what
    there is, so any number and size of frames will do. Stochastic depth is off: what a clip's pseudo-label is and what
    it trains against should differ by the augmentation of the views alone.
    """

    def __init__(self, channels: int = 96) -> None:
        super().__init__(
            patch_size=[2, 4, 4],
            embed_dim=channels,
            depths=[2, 2, 6, 2],
            num_heads=[3, 6, 12, 24],
            window_size=[8, 7, 7],
            stochastic_depth_prob=0.0,
        )
        self.head = nn.Identity()

    def stages(self, frames: Tensor, num_frames: int) -> tuple[Tensor, list[Tensor]]:
        """Return features pooled over space and time, and the maps [B, C, T, H, W] of the four groups of blocks."""
        x, maps = self.pos_drop(self.patch_embed(_volumes(frames, num_frames))), []
        for stage in self.features:
            x = stage(x)
            if not isinstance(stage, PatchMerging):
                maps.append(x.movedim(-1, 1))
        return self.norm(x).mean(dim=(1, 2, 3)), maps

    def narrower(self) -> Swin3DTiny:
        """Return the same with half the channels, and heads half as wide."""
        return Swin3DTiny(channels=self.num_features // 16)


def _volumes(frames: Tensor, num_frames: int) -> Tensor:
    """Frames [B*T, 3, H, W] as [B, 3, T, H, W]."""
    return frames.view(-1, num_frames, *frames.shape[1:]).transpose(1, 2)
