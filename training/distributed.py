"""Many ranks that train as one: what crosses between the processes, and when.

P ranks take equal shares of every batch. Gradients, statistics and the batch statistics of normalisation layers are
those of the whole batch, so that the ranks' weights stay equal and are those that one rank would have. With one rank
everything here does nothing. Launched by torchrun, or by `ganctl train --nproc` (`launch_ranks.py`).
"""

import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from training.errors import ConfigError, RankLostError, TrainingError
from training.meeting import agree_on_word
from training.normalisation import BatchNorm1d

T = TypeVar("T")
_PATIENCE = datetime.timedelta(minutes=30)  # of the ranks that wait while the first one evaluates


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine: which of its GPUs is ours
    restarts: int = 0  # how often torchrun has started this group anew

    @staticmethod
    def join() -> "Ranks":
        """Takes the place that torchrun's variables give, and meets the other ranks; alone without them."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return Ranks()
        rank, size, local, restarts = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
        )
        if size > 1 and not dist.is_initialized():
            store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
            word = agree_on_word(store, rank=rank, size=size, patience=_PATIENCE)
            # gloo carries agreements between the hosts; NCCL comes when something on a GPU is to be shared
            dist.init_process_group(
                "gloo", store=PrefixStore(word, store), rank=rank, world_size=size, timeout=_PATIENCE
            )
        return Ranks(rank, size, local, restarts)

    @staticmethod
    def leave() -> None:
        """Parts from the other ranks, without waiting for them; a process that ends without it may be aborted."""
        _nccl.cache_clear()
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def alone(self) -> bool:
        """Whether no torchrun has started this process."""
        return "TORCHELASTIC_RUN_ID" not in os.environ

    @property
    def first(self) -> bool:
        """Whether this rank is the one that evaluates, writes and speaks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This rank's part of n things."""
        assert n % self.size == 0, "the batch size was checked"
        each = n // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors of one type and device by their means over the ranks: flattened, in one all-reduce."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _company():
            dist.all_reduce(flat, group=_group(flat.device))
        flat /= self.size
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])

    def largest(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over the ranks. Hosts only: no device is waited for."""
        if self.size == 1:
            return list(values)
        agreed = torch.tensor(values, dtype=torch.int64)
        with _company():
            dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return [int(value) for value in agreed]

    def gather(self, value: T) -> list[T]:
        """What each rank has, in the ranks' order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _company():
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """What the first rank has, on every rank."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        with _company():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        received: T = values[0]
        return received

    def on_first(self, work: Callable[[], T]) -> T:
        """Does `work` on the first rank and gives every rank its result.

        Raises:
            Exception: what `work` raised, on the first rank; the others end quietly with its exit code.
        """
        if self.size == 1:
            return work()
        result, error = None, None
        if self.first:
            try:
                result = work()
            except Exception as caught:
                error = caught
        code = None if error is None else getattr(error, "exit_code", 1)
        result, code = self.from_first((result, code))
        if error is not None:
            raise error
        if code is not None:
            raise SystemExit(code)
        return cast(T, result)

    def need_equal(self, what: str, value: object) -> None:
        """Ends the run where ranks differ in what must be the same on all.

        Raises:
            TrainingError: they do; it names the ranks.
        """
        values = self.gather(value)
        others = [str(rank) for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise TrainingError(
                f"{what}: rank {', '.join(others)} of {self.size} has another than rank 0; give every rank the same"
                " command, settings, data and version of ganctl"
            )


SOLO = Ranks()


def _group(device: torch.device) -> "dist.ProcessGroup | None":
    """What carries tensors of this device: NCCL on GPUs, else gloo, the default."""
    return _nccl() if device.type == "cuda" else None


@cache
def _nccl() -> "dist.ProcessGroup":
    """All ranks come here at the same step, once each knows its GPU."""
    group = dist.new_group(backend="nccl", timeout=_PATIENCE)
    assert isinstance(group, dist.ProcessGroup), "every rank is in it"
    return group


@contextmanager
def _company() -> Iterator[None]:
    """Says in our words that a rank went away while another waited for it."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(
            f"another rank went away ({str(error).splitlines()[0]}); what the one that ended first said tells why"
        ) from error


def choose_device(name: str, ranks: Ranks = SOLO) -> torch.device:
    """The device that `train.device` means for this rank; auto takes CUDA where there is one.

    Raises:
        ConfigError: there is no such device, or there are more ranks on this machine than GPUs.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            ["train.device = 'cuda': torch sees no CUDA device; use 'cpu' or 'auto', or see 'ganctl doctor'."]
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    if ranks.local_rank >= (count := torch.cuda.device_count()):
        raise ConfigError(
            [f"--nproc: rank {ranks.local_rank} of this machine has no GPU of its own, {count} are visible; start"
             f" {count} ranks here, or set train.device to 'cpu'."]
        )  # fmt: skip
    return torch.device("cuda", ranks.local_rank)


def share_batch_statistics(network: nn.Module, ranks: Ranks) -> None:
    """Makes the network's batch normalisation see the whole batch, not this rank's share of it (in place).

    PyTorch's SyncBatchNorm runs on GPUs only; this one runs everywhere and may be differentiated twice.

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
        self._ranks, self._eps, self._momentum = ranks.size, local.eps, local.momentum
        self._counts = not isinstance(local, BatchNorm1d)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(local, name))  # likewise
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self._eps
            )
        shape = [1, -1] + [1] * (x.dim() - 2)
        axes = [0, *range(2, x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # under autocast x may have few bits
        count = x.numel() // x.shape[1] * self._ranks
        mean = _sum_over_ranks(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _sum_over_ranks(centred.square().sum(axes)) / count
        if self.training:
            self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        normal = centred * (variance + self._eps).rsqrt().view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

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


def _sum_over_ranks(x: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(x)
    return total


class _SumOverRanks(torch.autograd.Function):
    """Σ over the ranks. Its gradient is again that sum: every rank's loss depends on every rank's summand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        with _company():
            dist.all_reduce(total, group=_group(total.device))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _sum_over_ranks(gradient.contiguous())


def fingerprint(tensors: Iterable[Tensor]) -> list[float]:
    """Two sums over all elements that differ where a weight differs, for `Ranks.need_equal`."""
    flat = torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])
    return [flat.sum().item(), flat.square().sum().item()]


def random_states(device: torch.device) -> dict[str, Tensor]:
    """This process's global random states: what networks of one's own (dropout, say) draw from."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


@contextmanager
def kept_random_states(device: torch.device) -> Iterator[None]:
    """What is drawn within leaves no trace in the global random states."""
    before = random_states(device)
    try:
        yield
    finally:
        set_random_states([before], SOLO, device)


def set_random_states(states: Sequence[Mapping[str, Tensor]], ranks: Ranks, device: torch.device) -> None:
    """Takes up each rank's states. A rank or a kind of device that the run did not have before keeps its fresh ones."""
    own = states[ranks.rank] if ranks.rank < len(states) else {}
    if "cpu" in own:
        torch.set_rng_state(own["cpu"])
    if "cuda" in own and device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], device)
