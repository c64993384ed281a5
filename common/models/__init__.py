"""Networks by name, with their first weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from aplt.common.errors import ConfigError
from aplt.common.models.classifier import CosineHead, VideoClassifier
from aplt.common.models.tiny import tiny_tsm
from aplt.common.models.weights import TORCHVISION_FILES, load_weights, torchvision_file

__all__ = ["MODELS", "CosineHead", "VideoClassifier", "build_model"]


# torchvision takes as long to import as torch, hence only where a network needs it.
def _resnet(*, depth: int, shift: bool, num_classes: int) -> VideoClassifier:
    from aplt.common.models.resnet import frame_resnet

    return frame_resnet(depth=depth, shift=shift, num_classes=num_classes)


def _r3d_18(*, num_classes: int) -> VideoClassifier:
    from aplt.common.models.clips import r3d_18

    return r3d_18(num_classes=num_classes)


def _swin3d_t(*, num_classes: int) -> VideoClassifier:
    from aplt.common.models.clips import swin3d_t

    return swin3d_t(num_classes=num_classes)


def _timm(architecture: str, *, num_classes: int) -> VideoClassifier:
    from aplt.common.models.timm_frames import timm_frames

    return timm_frames(architecture, num_classes=num_classes)


MODELS: dict[str, Callable[..., VideoClassifier]] = {
    "tiny_tsm": tiny_tsm,
    "tsm_resnet18": partial(_resnet, depth=18, shift=True),
    "tsn_resnet18": partial(_resnet, depth=18, shift=False),
    "tsm_resnet50": partial(_resnet, depth=50, shift=True),
    "tsn_resnet50": partial(_resnet, depth=50, shift=False),
    "r3d_18": _r3d_18,
    "swin3d_t": _swin3d_t,
}


def build_model(
    name: str,
    *,
    num_classes: int,
    init: str = "scratch",
    weights_dir: Path | None = None,
    seed: int = 0,
    cosine_head: bool = False,
) -> VideoClassifier:
    """Return the network called `name`, the same for the same `seed`. It takes clips with any number of frames.

    `name` is one of MODELS, or timm:<name> for an image network of the timm library.

    `init` is scratch, imagenet or kinetics (torchvision's file, looked for in `weights_dir` or torch's hub cache, never
    downloaded) or the path of a weight file: .pth, .pt, .safetensors, or a published checkpoint's folder.

    Raises:
        ConfigError: no such network, no such file, or weights that do not fit.
    """
    own = {name: partial(_timm, name.removeprefix("timm:"))} if name.startswith("timm:") else MODELS
    if name not in own:
        raise ConfigError(f"model.name {name!r} is unknown; expected one of {', '.join(MODELS)} or timm:<name>")
    # Only the CPU's generator is seeded and put back; a GPU's stays as it is.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = own[name](num_classes=num_classes)
        if cosine_head:
            model.head = CosineHead(model.feature_dim, num_classes)
    if init != "scratch":
        load_weights(model, torchvision_file(init, name, weights_dir) if init in TORCHVISION_FILES else Path(init))
    return model
