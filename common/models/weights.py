"""Weight files read into a network. Nothing is ever unpickled or downloaded."""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Container
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aplt.common.errors import ConfigError

logger = logging.getLogger(__name__)

TORCHVISION_FILES = {
    "imagenet": {
        "tsm_resnet18": "resnet18-f37072fd.pth",
        "tsn_resnet18": "resnet18-f37072fd.pth",
        "tsm_resnet50": "resnet50-0676ba61.pth",
        "tsn_resnet50": "resnet50-0676ba61.pth",
    },
    "kinetics": {"r3d_18": "r3d_18-b3b3357e.pth", "swin3d_t": "swin3d_t-7615ae03.pth"},
}
"""What it was trained on -> network -> the name that torchvision gives to the file."""
HEADS = ("fc", "head", "head.fc", "classifier")
"""What torchvision and timm call the layer that is `head` here."""

MAX_NAMED = 3


def torchvision_file(init: str, name: str, weights_dir: Path | None) -> Path:
    """Return where the weights of network `name` lie; `init` is imagenet or kinetics.

    Raises:
        ConfigError: there are none for this network, or the file is not there.
    """
    files = TORCHVISION_FILES[init]
    if name not in files:
        raise ConfigError(
            f"model.init {init}: there are no such weights for {name}; use init: scratch, the path of a weight file, "
            f"or one of the networks {', '.join(files)}"
        )
    folder = weights_dir or Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / files[name]
    if not path.is_file():
        raise ConfigError(
            f"model.init {init}: {path} is not there and nothing is downloaded; put torchvision's "
            f"{path.name} into that folder, or name its folder with model.weights_dir"
        )
    return path


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weight file with torchvision's names or with the network's own.

    A classification head of another kind or number of classes is left out, with a line in the log.

    Raises:
        ConfigError: the file cannot be read, or its tensors do not fit the network.
    """
    wanted = model.state_dict()
    found = _own_names(read_weights(path), wanted)
    theirs, ours = (
        {name: tuple(value.shape) for name, value in tensors.items() if name.startswith("head.")}
        for tensors in (found, wanted)
    )
    if theirs and theirs != ours:
        logger.info("%s: its head is %s, the network's %s; the head starts from scratch", path, theirs, ours)
        found = {name: value for name, value in found.items() if name not in theirs}
    problems = _mismatches(found, wanted)
    if problems:
        more = f" and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise ConfigError(
            f"the weights in {path} do not fit this network: {'; '.join(problems[:MAX_NAMED])}{more}. "
            "Set model.name to the network that they come from, or model.init to another file"
        )
    model.load_state_dict(found, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .pth, .pt or .safetensors file or of a published checkpoint's folder.

    Raises:
        ConfigError: there is no such file or it is not of these kinds.
    """
    if (path / "manifest.json").is_file():
        path = path / _attempt(path / "manifest.json") / "weights.safetensors"
    if not path.is_file():
        raise ConfigError(
            f"model.init: {path} is not there; expected scratch, imagenet, kinetics or the path of a weight file"
        )
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise ConfigError(f"model.init: {path} has an unknown ending; expected .pth, .pt or .safetensors")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_pickled(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ConfigError(f"model.init: {path} cannot be read as weights: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"model.init: {path} holds no plain table of tensors; save model.state_dict() alone")
    return content


def _attempt(manifest: Path) -> str:
    try:
        attempt = json.loads(manifest.read_bytes())["attempt"]
    except (ValueError, KeyError, TypeError):
        attempt = None
    if not isinstance(attempt, str) or not re.fullmatch(r"[A-Za-z0-9-]+", attempt):
        raise ConfigError(f"model.init: {manifest} is damaged; name another checkpoint, or a weight file")
    return attempt


def _load_pickled(path: Path) -> object:
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content["state_dict"] if isinstance(content, dict) and "state_dict" in content else content


def _own_names(found: dict[str, Tensor], wanted: Container[str]) -> dict[str, Tensor]:
    """Files from elsewhere call the head as in HEADS and have no prefix for the rest."""
    if any(name.startswith("backbone.") for name in found):
        return dict(found)
    heads = {f"{head}.{kind}": f"head.{kind}" for head in HEADS for kind in ("weight", "bias")}
    return {
        heads[name] if name in heads and f"backbone.{name}" not in wanted else f"backbone.{name}": value
        for name, value in found.items()
    }


def _mismatches(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    # Step counters are absent from old files and play no part; a head may be absent.
    optional = {name for name in wanted if name.startswith("head.") or name.endswith("num_batches_tracked")}
    missing = [f"{name} is missing" for name in wanted if name not in found and name not in optional]
    unknown = [f"{name} is unknown" for name in found if name not in wanted]
    shapes = [
        f"{name} has shape {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in found
        if name in wanted and found[name].shape != wanted[name].shape
    ]
    return shapes + missing + unknown
