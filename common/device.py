"""Where a network runs and how."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from aplt.common.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the GPU if there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is unknown; expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"device {name!r} is not here ({torch.cuda.device_count()} CUDA devices are visible); use auto or cpu"
        )
    return device


def use_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None means all cores that this process may use."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which forward passes run."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
