"""What a method is: a module with a `loss`, which says which views it needs and keeps its own state in buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aplt.common.artifacts import LabelVersion
from aplt.common.config import MethodConfig
from aplt.trainer.ranks import joint_views

C = TypeVar("C", bound=MethodConfig)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The views of one step, [B, T, 3, H, W] each; those that the method does not ask for are None.

    A name with `_tg` is the temporal gradient of the view with that name: of the same frames, crop and changes.

    With several ranks the views are this rank's parts of the joint batch, and all else is of the joint batch.
    `forward_views` takes the former and returns the latter; a method that does something else with views, such as to
    mix clips with each other, goes through `joint` and `own_part`.

    `progress` is the share of the run's steps that are done, from 0 to below 1. `position_B` says where an unlabelled
    clip stands in the list of unlabelled clips, for state kept per clip.
    """

    progress: float
    labels_B: Tensor
    labeled_weak: Tensor
    labeled_weak_tg: Tensor | None = None
    labeled_strong: Tensor | None = None
    unlabeled_weak: Tensor | None = None
    unlabeled_weak_tg: Tensor | None = None
    unlabeled_weak_2: Tensor | None = None
    unlabeled_strong: Tensor | None = None
    unlabeled_strong_tg: Tensor | None = None
    unlabeled_strong_2: Tensor | None = None
    position_B: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one step gives: the loss to minimise, its parts for the records, and detached by-products.

    Feature banks and online pseudo-labels cost nothing here, because the step computes them anyway.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    labeled_features_BD: Tensor
    unlabeled_features_BD: Tensor | None = None
    online_labels_B: Tensor | None = None
    """Predicted class of an unlabelled clip whose confidence passed, -1 of one that did not."""


class Method(nn.Module, Generic[C]):
    """A way to train from labelled and unlabelled clips.

    The class attributes say which views `loss` reads; no others are made. Running state belongs in registered buffers:
    checkpoints and device moves then include it. Parameters of its own are trained and saved with the network's, unless
    they need no gradient.
    """

    uses_unlabeled: ClassVar[bool] = True
    uses_unlabeled_weak_2: ClassVar[bool] = False
    """A second weak view, drawn independently of the first."""
    uses_unlabeled_strong: ClassVar[bool] = True
    uses_unlabeled_strong_2: ClassVar[bool] = False
    """A second strong view, drawn independently of the first."""
    uses_temporal_gradients: ClassVar[bool] = False
    """The temporal gradients of the weak views and of the unlabelled strong one too."""

    def __init__(self, config: C, *, num_classes: int, feature_dim: int, num_unlabeled: int, normalize: str) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self.num_unlabeled = num_unlabeled
        self.normalize = normalize
        self.label: Tensor
        """The offline label of each unlabelled clip, -1 where it was screened out; with label versions only."""
        self.version: Tensor
        if config.uses_labels:
            self.register_buffer("label", torch.full((num_unlabeled,), -1, dtype=torch.int64))
            self.register_buffer("version", torch.zeros((), dtype=torch.int64))

    @property
    def uses_labeled_strong(self) -> bool:
        """Whether the next epoch reads a strong view of the labelled clips."""
        return False

    @property
    def labels_version(self) -> int:
        """The label version in use, 0 before the first."""
        return int(self.version) if self.config.uses_labels else 0

    def adopt(self, labels: LabelVersion) -> None:
        """Take over a label version at a phase boundary; its rows are the unlabelled clips in their order.

        Only methods that train with labels are asked.
        """
        kept_N = torch.from_numpy(labels.kept_N.copy())
        self.label.copy_(torch.where(kept_N, int_tensor(labels.labels_N), -1))
        self.version.fill_(labels.version)

    def begin(self, model: nn.Module) -> None:
        """Take over what is needed of the network as it is before the first step."""

    def start_epoch(self) -> None:
        """Forget what is known of the epoch before alone."""

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of one step."""
        raise NotImplementedError

    def after_step(self, model: nn.Module) -> None:
        """Follow the network, whose weights have just changed."""

    def tested(self, model: nn.Module) -> nn.Module:
        """Return the network to test: the trained one, unless the method keeps another of the same kind."""
        return model


def forward_views(model: Callable[[Tensor], tuple[Tensor, ...]], *views: Tensor | None) -> list[tuple[Tensor, ...]]:
    """Return (features, logits) of each view from one concatenated forward, so that batch norm sees them together.

    `model` may give other outputs, and any number of them, with a row per clip. With several ranks they are the joint
    batch's.
    """
    sizes = [len(view) for view in views if view is not None]
    return list(zip(*(joint_views(output.float(), sizes) for output in model(joined(*views))), strict=True))


def joined(*views: Tensor | None) -> Tensor:
    """Return the clips of all views that are there; those of a single one are not copied."""
    present = [view for view in views if view is not None]
    return present[0] if len(present) == 1 else torch.cat(present)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise with the statistics of the batch, and leave the running ones of every batch norm, 1-D to 3-D, alone."""
    tracking = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def int_tensor(values: np.ndarray) -> Tensor:
    """Return an int64 tensor that shares nothing with `values`."""
    return torch.from_numpy(values.astype(np.int64))
