"""Networks by name, with their first weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from aplt.common.errors import ConfigError
from aplt.common.models.classifier import VideoClassifier
from aplt.common.models.tiny import tiny_tsm
from aplt.common.models.weights import imagenet_file, load_weights

__all__ = ["MODELS", "VideoClassifier", "build_model"]


def _resnet18(*, num_classes: int, shift: bool) -> VideoClassifier:
    from aplt.common.models.resnet import resnet18  # torchvision takes as long to import as torch

    return resnet18(num_classes=num_classes, shift=shift)


MODELS: dict[str, Callable[..., VideoClassifier]] = {
    "tiny_tsm": tiny_tsm,
    "tsm_resnet18": partial(_resnet18, shift=True),
    "tsn_resnet18": partial(_resnet18, shift=False),
}


def build_model(
    name: str, *, num_classes: int, init: str = "scratch", weights_dir: Path | None = None, seed: int = 0
) -> VideoClassifier:
    """Return the network called `name`, the same for the same `seed`. It takes clips with any number of frames.

    `init` is scratch, imagenet (torchvision's file, looked for in `weights_dir` or torch's hub cache, never downloaded)
    or the path of a weight file: .pth, .pt, .safetensors, or a published checkpoint's folder.

    Raises:
        ConfigError: no such network, no such file, or weights that do not fit.
    """
    if name not in MODELS:
        raise ConfigError(f"model.name {name!r} is unknown; expected one of {', '.join(MODELS)}")
    # Only the CPU's generator is seeded and put back; a GPU's stays as it is.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = MODELS[name](num_classes=num_classes)
    if init != "scratch":
        load_weights(model, imagenet_file(name, weights_dir) if init == "imagenet" else Path(init))
    return model
