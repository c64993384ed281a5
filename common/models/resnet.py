"""ResNets over frames, with and without temporal shift. Their weights have torchvision's names."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from aplt.common.models.classifier import Backbone, VideoClassifier, temporal_shift

LAYOUTS = {18: (BasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3))}
"""Depth -> kind of block, and blocks per stage (He et al. 2016, table 1)."""


def frame_resnet(*, depth: int, num_classes: int, shift: bool) -> VideoClassifier:
    """Return ResNet-`depth` with a residual shift in every block (TSM, Lin et al. 2019).

    Without it, one that looks at each frame alone (TSN, Wang et al. 2016).
    """
    block, _ = LAYOUTS[depth]
    return VideoClassifier(
        FrameResNet(depth=depth, shift=shift), feature_dim=512 * block.expansion, num_classes=num_classes
    )


class FrameResNet(Backbone, ResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's ResNet without its head: frames [B*T, 3, H, W] to features [B*T, 512], or 2048 with bottlenecks.

    The shift stands before the first convolution of a block and not on its shortcut, so a block sees its frames
    unshifted as well ("residual shift").
    """

    def __init__(self, *, depth: int, shift: bool) -> None:
        block, stages = LAYOUTS[depth]
        super().__init__(block, list(stages))
        self.shift = shift
        self.fc = nn.Identity()

    def stages(self, frames: Tensor, num_frames: int) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled features of each frame, and the maps [B*T, C, H, W] of the four groups of blocks."""
        x, maps = self.maxpool(self.relu(self.bn1(self.conv1(frames)))), []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = self._block(block, x, num_frames)
            maps.append(x)
        return self.avgpool(x).flatten(1), maps

    def _block(self, block: BasicBlock | Bottleneck, x: Tensor, num_frames: int) -> Tensor:
        shortcut = x if block.downsample is None else block.downsample(x)
        y = temporal_shift(x, num_frames) if self.shift else x
        y = block.relu(block.bn1(block.conv1(y)))
        y = block.bn2(block.conv2(y))
        if isinstance(block, Bottleneck):
            y = block.bn3(block.conv3(block.relu(y)))
        y += shortcut
        activated: Tensor = block.relu(y)
        return activated
