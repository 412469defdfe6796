"""Synchronized batch normalization: mean and variance are computed over the samples of all ranks.

PyTorch's SyncBatchNorm supports only GPUs; this one supports every device. A forward pass takes one collective
operation, and so does a backward pass. On a GPU it uses the kernels of PyTorch's, which replace some twenty small ones
for each layer: in a captured step (`step/cuda_graph.py`), each takes about 4 µs.
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


def convert_sync_batch_norm(network: nn.Module, ranks: Ranks) -> None:
    """Replaces the network's batch normalization layers by synchronized ones, in place; does nothing for one rank.

    Raises:
        ConfigError: a batch normalization layer has an unsupported type.
    """
    if not ranks.communicates:
        return
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, _BatchNorm):
                continue
            if type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d, BatchNorm1d):
                found = f"{type(network).__name__}.{name} is a {type(child).__name__}"
                expected = "expected nn.BatchNorm1d or nn.BatchNorm2d for several ranks"
                raise ConfigError([f"--nproc: {found}, {expected}. Replace it, or train with one rank."])
            setattr(parent, name, _SyncBatchNorm(child, ranks))


class _SyncBatchNorm(nn.Module):
    """Batch normalization over the samples of all ranks, with the state dict of the layer that it replaces."""

    def __init__(self, local: _BatchNorm, ranks: Ranks) -> None:
        super().__init__()
        self.weight, self.bias = local.weight, local.bias  # None without affine parameters
        self._ranks, self._eps, self._momentum = ranks, local.eps, local.momentum
        self._counts_batches = not isinstance(local, BatchNorm1d)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(local, name))  # None without running statistics
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self._eps)
        batch = _Batch(self._ranks, self._eps, self._count_batch() if self.training else None)
        normalize = _FusedNormalize if x.is_cuda else _Normalize
        normalized: Tensor = normalize.apply(x, self.weight, self.bias, batch)
        return normalized

    def _count_batch(self) -> "_Running | None":
        """Counts a batch; returns the running statistics and the weight of the batch, None without statistics."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return None
        if self._counts_batches:
            self.num_batches_tracked += 1
        # without a momentum: the cumulative average
        weight = self._momentum if self._momentum is not None else 1 / int(self.num_batches_tracked)
        return _Running(self.running_mean, self.running_var, weight)


class _Running(NamedTuple):
    """Running statistics [C], and the weight of the current batch in them."""

    mean: Tensor
    variance: Tensor
    weight: float


class _Batch(NamedTuple):
    """The ranks that share a batch, the ε of its variance, and the running statistics that the batch updates."""

    ranks: Ranks
    eps: float
    running: _Running | None


class _Normalize(torch.autograd.Function):
    """y = w · (x − m) / √(v + ε) + b, with mean m and variance v per channel over all ranks; updates the running ones.

    The gradient by x is w / √(v + ε) · (g − E g − x̂ · E(g x̂)) with the normalized x̂ and means over all ranks (Ioffe &
    Szegedy 2015, arXiv:1502.03167, section 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, batch: _Batch) -> Tensor:
        ranks, eps, running = batch
        unused = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))  # sets the dtype
        local = torch.stack(torch.batch_norm_update_stats(x, unused, unused, 0.0))
        by_rank = ranks.all_gather(local)  # [ranks, 2, C]: mean and variance
        mean, within = by_rank.mean(dim=0)
        variance = within + (by_rank[:, 0] - mean).square_().mean(dim=0)
        if running is not None:
            count = x.numel() // x.shape[1] * ranks.size
            running.mean.lerp_(mean, running.weight)
            running.variance.lerp_(variance * (count / (count - 1)), running.weight)
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.ranks, ctx.eps = ranks, eps
        return functional.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable  # gradient penalties with batch normalization are not supported
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, _, mean, variance = ctx.saved_tensors
        grad_fixed_stats, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True] * 3
        )
        means = torch.stack([grad_weight, grad_bias]) / (x.numel() // x.shape[1])
        ctx.ranks.all_reduce_mean([means])
        factor = (variance + ctx.eps).rsqrt()
        slope = means[0] * factor.square() * (1 if weight is None else weight)
        offset = means[1] * factor * (1 if weight is None else weight) - slope * mean
        shape = [1, -1] + [1] * (x.dim() - 2)  # broadcasts one number per channel over x
        grad_x = torch.addcmul(grad_fixed_stats - offset.view(shape), x, slope.view(shape), value=-1).to(x.dtype)
        return grad_x, *((None, None) if weight is None else (grad_weight, grad_bias)), None


class _FusedNormalize(torch.autograd.Function):
    """Batch normalization like `_Normalize`, by the CUDA kernels of PyTorch's SyncBatchNorm.

    All ranks have equally many samples.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, batch: _Batch) -> Tensor:
        ranks, eps, running = batch
        x = _dense(x)
        by_rank = ranks.all_gather(torch.stack(torch.batch_norm_stats(x, eps)))  # [ranks, 2, C]: mean and 1/√(v + ε)
        counts = by_rank.new_full((ranks.size,), x.numel() // x.shape[1])
        means, inverses = by_rank.unbind(dim=1)
        running_mean, running_variance, momentum = running or (None, None, 0.0)
        mean, inverse = torch.batch_norm_gather_stats_with_counts(
            x, means, inverses, running_mean, running_variance, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.ranks = ranks
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, mean, inverse = ctx.saved_tensors
        gradient = _dense(gradient)
        grad_sum, product_sum, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, inverse, weight, True, True, True
        )
        sums = torch.stack([grad_sum, product_sum])  # Σ g and Σ g (x − m) of this rank
        ctx.ranks.all_reduce_mean([sums])
        count = torch.full((1,), x.numel() // x.shape[1], dtype=torch.int32, device=x.device)  # samples of a rank
        grad_x = torch.batch_norm_backward_elemt(gradient, x, mean, inverse, weight, sums[0], sums[1], count)
        return grad_x, *((None, None) if weight is None else (grad_weight, grad_bias)), None


def _dense(x: Tensor) -> Tensor:
    """x in a layout that the kernels support."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
