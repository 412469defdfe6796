"""Batch normalisation over several ranks: mean and variance are those of all ranks' samples.

PyTorch's SyncBatchNorm runs on GPUs only; this one runs everywhere. A forward pass asks the other ranks once,
and so does a backward pass.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.models.batch_norm import BatchNorm1d


def share_batch_statistics(network: nn.Module, ranks: Ranks) -> None:
    """Makes the network's batch normalisation see the whole batch, not this rank's share of it (in place).

    Raises:
        ConfigError: there is a kind of batch normalisation that it cannot stand in for.
    """
    if ranks.size == 1:
        return
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, _BatchNorm):
                continue
            if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, BatchNorm1d):
                setattr(parent, name, _SharedBatchNorm(child, ranks))
            else:
                raise ConfigError(
                    [f"--nproc: {type(network).__name__}.{name} is a {type(child).__name__}; over several ranks only"
                     " nn.BatchNorm1d and nn.BatchNorm2d themselves are known to share their statistics."]
                )  # fmt: skip


class _SharedBatchNorm(nn.Module):
    """A batch normalisation whose mean and variance are those of all ranks' samples; same parameters, same names."""

    def __init__(self, local: _BatchNorm, ranks: Ranks) -> None:
        super().__init__()
        self.weight, self.bias = local.weight, local.bias  # None where it has none
        self._ranks, self._eps, self._momentum = ranks, local.eps, local.momentum
        self._counts = not isinstance(local, BatchNorm1d)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(local, name))  # likewise
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self._eps)
        found: tuple[Tensor, Tensor, Tensor] = _Normalise.apply(
            x, self.weight, self.bias, _Over(self._ranks, self._eps)
        )
        normal, mean, variance = found
        if self.training:
            count = x.numel() // x.shape[1] * self._ranks.size
            self._remember(mean, variance * (count / (count - 1)))
        return normal

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        if self._counts:
            self.num_batches_tracked += 1
        # without a momentum: the mean of all batches so far
        share = self._momentum if self._momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Over(NamedTuple):
    ranks: Ranks
    eps: float


class _Normalise(torch.autograd.Function):
    """y = w · (x − m) / √(v + ε) + b with the mean m and the variance v of all ranks' x, for each channel; also m, v.

    Ioffe & Szegedy 2015, arXiv:1502.03167, section 3: the gradient by x is w / √(v + ε) · (g − E g − x̂ · E(g x̂)), the
    means again over all ranks, and x̂ being the normalised x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, over: _Over) -> Any:
        unused = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))  # tells how many bits
        own = torch.stack(torch.batch_norm_update_stats(x, unused, unused, 0.0))
        each = over.ranks.stack(own)
        mean, within = each.mean(dim=0)
        variance = within + (each[:, 0] - mean).square_().mean(dim=0)
        normal = functional.batch_norm(x, mean, variance, weight, bias, eps=over.eps)
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.over = over
        return normal, mean, variance

    @staticmethod
    @once_differentiable  # a penalty on a network with batch normalisation is refused
    def backward(ctx: Any, gradient: Tensor, *_: object) -> Any:
        x, weight, _, mean, variance = ctx.saved_tensors
        over: _Over = ctx.over
        as_given, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, over.eps, [True] * 3
        )
        means = torch.stack([by_weight, by_bias]) / (x.numel() // x.shape[1])
        over.ranks.all_reduce_mean([means])
        shape, factor = _along(x), (variance + over.eps).rsqrt()
        slope = means[0] * factor.square() * (1 if weight is None else weight)
        height = means[1] * factor * (1 if weight is None else weight) - slope * mean
        by_x = torch.addcmul(as_given - height.view(shape), x, slope.view(shape), value=-1).to(x.dtype)
        return by_x, *((None, None) if weight is None else (by_weight, by_bias)), None


def _along(x: Tensor) -> list[int]:
    """The shape in which one number for each channel meets x."""
    return [1, -1] + [1] * (x.dim() - 2)
