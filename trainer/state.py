"""All that a training run is between two epochs, as arrays in a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aplt.common.artifacts import Checkpoint
from aplt.common.config import BaseRunConfig
from aplt.common.data.prepared import PreparedData
from aplt.common.models import VideoClassifier, build_model
from aplt.trainer.methods import METHODS, Method
from aplt.trainer.ranks import with_joint_batch_norm

Arrays = dict[str, NDArray[Any]]


@dataclass
class Bank:
    """The last weak-view features and online pseudo-labels of every training clip, as the steps computed them."""

    labeled_MD: Tensor
    labeled_seen_M: Tensor
    unlabeled_ND: Tensor
    online_N: Tensor

    @classmethod
    def empty(cls, num_labeled: int, num_unlabeled: int, feature_dim: int) -> Bank:
        """Return a bank that has seen nothing."""
        return cls(
            torch.zeros(num_labeled, feature_dim),
            torch.zeros(num_labeled, dtype=torch.bool),
            torch.zeros(num_unlabeled, feature_dim),
            torch.full((num_unlabeled,), -1, dtype=torch.int16),
        )


@dataclass
class TrainState:
    """Network, optimiser, method and bank after `epoch` finished epochs."""

    model: VideoClassifier
    method: Method[Any]
    optimizer: torch.optim.SGD
    bank: Bank
    epoch: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def checkpoint(self) -> Checkpoint:
        """Return everything that another process needs to go on."""
        state: Arrays = {f"method/{name}": _array(value) for name, value in self.method.state_dict().items()}
        for name, parameter in _trained(self.model, self.method).items():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                state[f"momentum/{name}"] = _array(momentum)
        tested = self.method.tested(self.model)
        if tested is not self.model:
            state |= {f"trained/{name}": _array(value) for name, value in self.model.state_dict().items()}
        state |= {
            "bank/labeled": _array(self.bank.labeled_MD),
            "bank/labeled_seen": _array(self.bank.labeled_seen_M),
            "bank/unlabeled": _array(self.bank.unlabeled_ND),
        }
        return Checkpoint(
            epoch=self.epoch,
            weights={name: _array(value) for name, value in tested.state_dict().items()},
            state=state,
            online_labels_N=_array(self.bank.online_N) if self.method.uses_unlabeled else None,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what `checkpoint` was made from."""
        self.epoch = checkpoint.epoch
        weights = {name: torch.from_numpy(value.copy()) for name, value in checkpoint.weights.items()}
        state = {name: torch.from_numpy(value.copy()) for name, value in checkpoint.state.items()}
        self.model.load_state_dict(_below(state, "trained/") or weights)
        self.method.load_state_dict(_below(state, "method/"))
        for name, parameter in _trained(self.model, self.method).items():
            if f"momentum/{name}" in state:
                momentum = torch.empty_like(parameter, requires_grad=False)
                self.optimizer.state[parameter]["momentum_buffer"] = momentum.copy_(state[f"momentum/{name}"])
        self.bank.labeled_MD.copy_(state["bank/labeled"])
        self.bank.labeled_seen_M.copy_(state["bank/labeled_seen"])
        self.bank.unlabeled_ND.copy_(state["bank/unlabeled"])
        if checkpoint.online_labels_N is not None:
            self.bank.online_N.copy_(torch.from_numpy(checkpoint.online_labels_N.copy()))


def init_state(config: BaseRunConfig, data: PreparedData, device: torch.device) -> TrainState:
    """Return the state before the first epoch."""
    model = build_model(
        config.model.name,
        num_classes=len(data.class_names),
        init=config.model.init,
        weights_dir=config.model.weights_dir,
        seed=config.seed,
        cosine_head=config.method.cosine_head,
    )
    # Networks of the method's own depend on the seed too, and start with other weights than the model.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed + 1)
        method = METHODS[config.method.name](
            config.method,
            num_classes=len(data.class_names),
            feature_dim=model.feature_dim,
            num_unlabeled=len(data.unlabeled_rows_N),
            normalize=config.features.normalize,
        )
        method.begin(model)
    model, method = model.to(device), method.to(device)
    networks = [network for network in (model, *method.modules()) if isinstance(network, VideoClassifier)]
    if config.trainer.channels_last:
        for network in networks:
            network.channels_last()
    if config.trainer.ranks > 1:
        for network in networks:
            with_joint_batch_norm(network)
    if config.trainer.compile:
        model.compile()
    optimizer = torch.optim.SGD(
        _trained(model, method).values(),
        lr=config.trainer.lr,
        momentum=config.trainer.momentum,
        weight_decay=config.trainer.weight_decay,
        foreach=True,
    )
    bank = Bank.empty(len(data.labeled_rows_M), len(data.unlabeled_rows_N), model.feature_dim)
    return TrainState(model=model, method=method, optimizer=optimizer, bank=bank, device=device)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _trained(model: nn.Module, method: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the optimiser changes: the network's, and those that the method has of its own."""
    own = {name: value for name, value in method.named_parameters(prefix="method") if value.requires_grad}
    return dict(model.named_parameters()) | own


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(tensor.detach().cpu().numpy(), order="C")
    return array


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
