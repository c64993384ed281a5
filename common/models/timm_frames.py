"""Image networks of the `timm` library, looking at each frame alone (TSN, Wang et al. 2016)."""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor

from aplt.common.errors import ConfigError
from aplt.common.models.classifier import VideoClassifier


def timm_frames(architecture: str, *, num_classes: int) -> VideoClassifier:
    """Return timm's `architecture`, such as convnext_tiny, with first weights of its own and nothing downloaded.

    Raises:
        ConfigError: timm is not installed or has no such network.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"model.name timm:{architecture} needs the timm library ({error}); install it with "
            "`pip install 'timm>=1.0'`, or choose a network that comes with aplt"
        ) from None
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them all"
        raise ConfigError(f"model.name timm:{architecture}: timm {timm.__version__} has no such network; {hint}")
    # Without classes it ends with what a head would see, and without dropout in front of that.
    network = timm.create_model(architecture, pretrained=False, num_classes=0, drop_rate=0.0)
    return TimmFrames(network, architecture=architecture, num_classes=num_classes)


class TimmFrames(VideoClassifier):
    """A classifier whose backbone turns frames [B*T, 3, H, W] into [B*T, D] and knows nothing of clips.

    The blocks of image networks differ too much for one way of shifting channels between frames, so there is none.
    """

    def __init__(self, network: Any, *, architecture: str, num_classes: int) -> None:
        super().__init__(network, feature_dim=network.head_hidden_size, num_classes=num_classes)
        self.architecture = architecture
        settings = network.pretrained_cfg
        self.only_size = tuple(settings["input_size"][1:]) if settings.get("fixed_input_size") else None

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of clips with any number of frames.

        Raises:
            ConfigError: the network takes frames of another size alone.
        """
        self._require_size(clips)
        features = self.backbone(clips.flatten(0, 1))
        features_BD = features.view(*clips.shape[:2], self.feature_dim).mean(1)
        return features_BD, self.head(features_BD)

    def stages(self, clips: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return features, logits and maps [B*T, C, H, W]: of its last four stages, or of four layers evenly spaced.

        Raises:
            ConfigError: the network gives no maps, or takes frames of another size alone.
        """
        self._require_size(clips)
        if not hasattr(self.backbone, "forward_intermediates"):
            raise ConfigError(
                f"model.name timm:{self.architecture} gives no maps of its stages; choose another network"
            )
        num = len(self.backbone.feature_info)
        indices = range(max(0, num - 4), num) if num < 8 else range(num // 4 - 1, num, num // 4)
        last, maps = self.backbone.forward_intermediates(clips.flatten(0, 1), indices=list(indices), output_fmt="NCHW")
        features = self.backbone.forward_head(last)
        features_BD = features.view(*clips.shape[:2], self.feature_dim).mean(1)
        return features_BD, self.head(features_BD), maps

    def narrower(self) -> VideoClassifier:
        """Return the same network with other first weights: timm's have no width in common that could be halved."""
        return timm_frames(self.architecture, num_classes=self.num_classes)

    def _require_size(self, clips: Tensor) -> None:
        if self.only_size not in (None, clips.shape[3:]):
            raise ConfigError(
                f"model.name timm:{self.architecture} takes frames of {_pixels(self.only_size)} alone, not "
                f"{_pixels(clips.shape[3:])}; set data.crop_size to fit, or choose another network"
            )


def _pixels(size: Any) -> str:
    return " x ".join(map(str, size)) + " pixels"
