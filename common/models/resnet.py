"""ResNet-18 over frames, with and without temporal shift. Its weights have torchvision's names."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from aplt.common.models.classifier import VideoClassifier, temporal_shift


def resnet18(*, num_classes: int, shift: bool) -> VideoClassifier:
    """Return ResNet-18 with a residual shift in every block (TSM, Lin et al. 2019).

    Without it, one that looks at each frame alone (TSN, Wang et al. 2016).
    """
    return VideoClassifier(ResNet18(shift=shift), feature_dim=512, num_classes=num_classes)


class ResNet18(ResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's ResNet-18 without its head: frames [B*T, 3, H, W] to features [B*T, 512].

    The shift stands before the first convolution of a block and not on its shortcut, so a block sees its frames
    unshifted as well ("residual shift").
    """

    def __init__(self, *, shift: bool) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.shift = shift
        self.fc = nn.Identity()

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Return the pooled features of each frame."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(frames))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = self._block(block, x, num_frames)
        features: Tensor = self.avgpool(x).flatten(1)
        return features

    def _block(self, block: BasicBlock, x: Tensor, num_frames: int) -> Tensor:
        shortcut = x if block.downsample is None else block.downsample(x)
        y = temporal_shift(x, num_frames) if self.shift else x
        y = block.relu(block.bn1(block.conv1(y)))
        y = block.bn2(block.conv2(y))
        y += shortcut
        activated: Tensor = block.relu(y)
        return activated
