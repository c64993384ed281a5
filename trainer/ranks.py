"""Several processes, the ranks, train one network: what a step knows of it. With one rank all of this does nothing.

A batch is the joint batch of all ranks. Each rank reads, augments and forwards its own part of every view, and the
outputs are gathered: from there on all ranks compute the same losses, pseudo-labels and state from the joint batch.

Every rank asks the same of each gathered output, and the gather passes back the sum of that, `num_ranks` times the
gradient. The mean over the ranks is then the gradient of every parameter, before the gather or after it.

Letters: R ranks, N the clips of all views of one rank, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from aplt.common.errors import ConfigError

Rows = TypeVar("Rows", Tensor, NDArray[Any])


def num_ranks() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_part(rows: Rows) -> Rows:
    """Return the rows of a joint batch that are this rank's: an equal, contiguous part."""
    if num_ranks() == 1:
        return rows
    size = len(rows) // num_ranks()
    return rows[dist.get_rank() * size : (dist.get_rank() + 1) * size]


def joint(rows: Tensor) -> Tensor:
    """Return the joint batch whose own part is `rows`; gradients flow to that part."""
    return joint_views(rows, [len(rows)])[0]


def joint_views(rows: Tensor, sizes: list[int]) -> list[Tensor]:
    """Return the joint batch of each view; `rows` are this rank's parts of them, `sizes` long, one after the other."""
    if num_ranks() == 1:
        return list(torch.split(rows, sizes))
    gathered: Tensor = _Gather.apply(rows)
    return [part.flatten(0, 1) for part in torch.split(gathered, sizes, dim=1)]


class _Gather(torch.autograd.Function):
    """[N, ...] to [R, N, ...]; the gradient needs no exchange, because all ranks ask the same."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _gathered(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0][dist.get_rank()] * num_ranks()


def _gathered(values: Tensor) -> Tensor:
    values = values.contiguous()
    parts = [torch.empty_like(values) for _ in range(num_ranks())]
    dist.all_gather(parts, values)
    return torch.stack(parts)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make each gradient the mean over the ranks, in one exchange."""
    if num_ranks() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= num_ranks()
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, part in zip(gradients, torch.split(flat, sizes), strict=True):
        gradient.copy_(part.view_as(gradient))


def with_joint_batch_norm(module: nn.Module) -> nn.Module:
    """Return `module` with every batch norm replaced by one over the joint batch, of the same parameters and names.

    Raises:
        ConfigError: there is one of a kind of its own, which does more than to normalise.
    """
    if isinstance(module, _BatchNorm):
        return JointBatchNorm.of(module)
    for name, child in module.named_children():
        setattr(module, name, with_joint_batch_norm(child))
    return module


class JointBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the joint batch: torch's on GPUs; on CPUs, which that refuses, made of torch's CPU kernels."""

    @classmethod
    def of(cls, norm: _BatchNorm) -> JointBatchNorm:
        """Return the joint one with the parameters and running statistics of `norm`, not copies of them."""
        if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, cls):
            raise ConfigError(
                f"the network has {type(norm).__name__} layers, which cannot normalise over several ranks; "
                "use trainer.ranks: 1, or a network with plain batch norm or none"
            )
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, value in [*norm.named_parameters(), *norm.named_buffers()]:
            setattr(made, name, value)
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised values [N, C, ...]."""
        if not self.training or num_ranks() == 1 or x.device.type != "cpu":
            output: Tensor = super().forward(x)
            return output
        output, mean_C, variance_C = _JointNorm.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            assert self.num_batches_tracked is not None
            assert self.running_mean is not None
            assert self.running_var is not None
            self.num_batches_tracked += 1
            new = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            count = num_ranks() * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean_C, new)
            self.running_var.lerp_(variance_C * count / (count - 1), new)
        return output


class _JointNorm(torch.autograd.Function):
    """Normalise with given statistics, as in evaluation, with those of the joint batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        means_RC, variances_RC = _gathered(
            torch.stack(torch.batch_norm_update_stats(x.to(weight_C.dtype), None, None, 0.0))
        ).unbind(1)
        mean_C = means_RC.mean(0)
        variance_C = variances_RC.mean(0) + means_RC.var(0, correction=0)  # parts of equal size
        ctx.save_for_backward(x, weight_C, mean_C, variance_C)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean_C, variance_C)
        return F.batch_norm(x, mean_C, variance_C, weight_C, bias_C, eps=eps), mean_C, variance_C

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight_C, mean_C, variance_C = ctx.saved_tensors
        # As if the statistics were constants; what flows through them is linear in x, and needs only these sums.
        gradient, own_weight_C, own_bias_C = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight_C, mean_C, variance_C, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([own_weight_C, own_bias_C])
        dist.all_reduce(sums)
        by_weight_C, by_bias_C = sums * (weight_C * x.shape[1] / (num_ranks() * x.numel()))
        scale_C = (variance_C + ctx.eps).rsqrt()
        slope_C = -by_weight_C * scale_C**2
        shape = (1, -1, *[1] * (x.dim() - 2))
        gradient.addcmul_(x, slope_C.view(shape)).sub_((by_bias_C * scale_C + slope_C * mean_C).view(shape))
        return gradient, own_weight_C, own_bias_C, None
