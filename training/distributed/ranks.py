"""Collective operations between the ranks that train one model; the device and the random state of each rank.

Each of P ranks takes an equal share of every batch. Gradients, statistics and batch normalization are computed over the
whole batch, so all ranks have the same weights, which equal those of a run with one rank. With one rank, the collective
operations do nothing. Ranks are started by torchrun, by `ganctl train --nproc`, or by another launcher that sets the
same variables (`rank_environment.py`). CPU tensors are sent by gloo, GPU tensors by NCCL.

A CUDA graph can capture the operations on tensors (`all_reduce_mean`, `all_gather`) with NCCL: they allocate from the
graph's memory, run in the current stream and read nothing on the host. One communicator sends all of them, in one order
on all ranks. PyTorch's watchdog does not watch captured operations: gloo notices a rank that ended, after the step.
"""

import datetime
import os
import platform
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ganctl.training.distributed.rank_environment import RankEnvironment, read_rank_environment
from ganctl.training.distributed.start_token import agree_on_start_token
from ganctl.training.errors import ConfigError, RankLostError, TrainingError

T = TypeVar("T")
_TIMEOUT = datetime.timedelta(minutes=30)  # long enough for an evaluation on rank 0, while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process's rank, and the collective operations of all ranks."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine: the index of this rank's GPU
    restarts: int = 0  # how often torchrun restarted the ranks
    alone: bool = True  # True if the process was started without rank variables
    gpu_backend: Literal["nccl", "gloo"] = "nccl"  # of GPU tensors; gloo sends them through the host

    @staticmethod
    def join() -> "Ranks":
        """Joins the other ranks, by the launcher's variables; returns a single rank if there are none.

        Raises:
            ConfigError: the variables are invalid.
            TrainingError: the other ranks do not join in time.
        """
        if (environment := read_rank_environment(os.environ)) is None:
            return Ranks()
        if environment.size > 1 and not dist.is_initialized():
            _init_process_group(environment)
        ranks = Ranks(
            environment.rank,
            environment.size,
            restarts=environment.restarts,
            alone=False,
            gpu_backend="nccl" if dist.is_nccl_available() else "gloo",
        )
        lower_nodes = ranks.all_gather_object(platform.node())[: ranks.rank]
        local_rank = environment.local_rank
        return replace(ranks, local_rank=lower_nodes.count(platform.node()) if local_rank is None else local_rank)

    @staticmethod
    def leave() -> None:
        """Leaves the process group, without waiting for other ranks; a process that ends without it may abort."""
        while _before_leave:
            if (release := _before_leave.pop()()) is not None:
                release()
        _nccl_group.cache_clear()
        if dist.is_initialized():
            dist.destroy_process_group()

    @staticmethod
    def before_leave(release: Callable[[], None]) -> None:
        """Calls `release`, a method of an object that still exists then, before `leave` destroys the process group.

        Captured graphs must be released: NCCL waits for their end before it destroys a communicator (pytorch#115388).
        """
        _before_leave.append(weakref.WeakMethod(release))

    def __deepcopy__(self, memo: object) -> "Ranks":
        return self  # copies of a network use the same process group

    @property
    def is_main(self) -> bool:
        """True on rank 0, which evaluates, writes files and logs."""
        return self.rank == 0

    @property
    def communicates(self) -> bool:
        """True if several ranks train, which must send each other tensors; a single rank has the sums already."""
        return self.size > 1

    def in_turns(self) -> int:
        """Returns the number of ranks that compute in the turns of this rank; see `device/turns.py`.

        Rank 0 takes turns for all, since the others wait for it in each step. Ranks of several machines take none: two
        runs could wait for each other.
        """
        machines = set(self.all_gather_object(platform.node()))
        return self.size if self.is_main and len(machines) == 1 else 0

    def local_slice(self, n: int) -> slice:
        """Returns this rank's slice of n items."""
        assert n % self.size == 0, "the config check requires a batch size that is divisible by the number of ranks"
        count = n // self.size
        return slice(self.rank * count, (self.rank + 1) * count)

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors of one dtype and device by their means over the ranks, in one all-reduce."""
        if not self.communicates:
            return
        alone = len(tensors) == 1 and tensors[0].is_contiguous()  # is sent as it is
        flat = tensors[0] if alone else torch.cat([tensor.reshape(-1) for tensor in tensors])
        group = self._group(flat)
        with _detect_lost_rank():
            dist.all_reduce(flat, dist.ReduceOp.SUM if group is None else dist.ReduceOp.AVG, group)
        if group is None:  # gloo cannot average
            flat /= self.size
        if not alone:
            parts = flat.split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])

    def all_gather(self, x: Tensor) -> Tensor:
        """Stacks x, [N, ...], of all ranks: [ranks, N, ...]; only if the ranks communicate."""
        gathered = x.new_empty(self.size, *x.shape)
        with _detect_lost_rank():
            dist.all_gather_into_tensor(gathered.flatten(0, 1), x.contiguous(), group=self._group(x))
        return gathered

    def _group(self, tensor: Tensor) -> "dist.ProcessGroup | None":
        """The process group that sends a tensor; None: the default group, gloo."""
        return _nccl_group() if tensor.is_cuda and self.gpu_backend == "nccl" else None

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Returns the maximum of each value over several ranks; does not wait for a device."""
        maxima = torch.tensor(values, dtype=torch.int64)
        with _detect_lost_rank():
            dist.all_reduce(maxima, dist.ReduceOp.MAX)
        return [int(maximum) for maximum in maxima]

    def all_gather_object(self, value: T) -> list[T]:
        """Returns the values of all ranks, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _detect_lost_rank():
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Returns rank 0's value, on every rank."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        with _detect_lost_rank():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        received: T = values[0]
        return received

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Runs `work` on rank 0 and returns its result on every rank.

        Raises:
            Exception: rank 0 only: the exception of `work`.
            SystemExit: other ranks, if `work` raised: without a message, with the exception's exit code.
        """
        if not self.is_main:
            result, exit_code = cast("tuple[T, int | None]", self.broadcast(None))
            if exit_code is not None:
                raise SystemExit(exit_code)
            return result
        try:
            result = work()
        except Exception as error:
            self.broadcast((None, getattr(error, "exit_code", 1)))
            raise
        self.broadcast((result, None))
        return result

    def assert_equal_across_ranks(self, name: str, value: object) -> None:
        """Checks that all ranks have the same value.

        Args:
            name: name of the value in the error message.
            value: this rank's value; compared with ==.

        Raises:
            TrainingError: a rank's value differs from rank 0's.
        """
        values = self.all_gather_object(value)
        different = [str(rank) for rank, other in enumerate(values) if other != values[0]]
        if different:
            found = f"{name}: rank {', '.join(different)} of {self.size} differs from rank 0, expected equal values"
            raise TrainingError(f"{found}. Give every rank the same command, settings, data and version of ganctl.")


SINGLE_RANK = Ranks()
_before_leave: "list[weakref.WeakMethod[Callable[[], None]]]" = []


def _init_process_group(environment: RankEnvironment) -> None:
    """Waits for the other ranks and creates the process group."""
    rank, size = environment.rank, environment.size
    try:
        with _interruptible():
            store, _, _ = next(rendezvous("env://", timeout=_TIMEOUT))
            token = agree_on_start_token(store, rank=rank, size=size, timeout=_TIMEOUT)
            # gloo for values on the host; the NCCL group is created at the first collective on GPUs
            dist.init_process_group(
                "gloo", store=PrefixStore(token, store), rank=rank, world_size=size, timeout=_TIMEOUT
            )
    except (RuntimeError, TimeoutError) as error:  # torch raises RuntimeError for store and network errors
        raise TrainingError(
            f"rank {rank} of {size}: cannot join the other ranks at MASTER_ADDR:MASTER_PORT {environment.address}"
            f" ({str(error).splitlines()[0]}). Start all {size} ranks, with RANK 0 at that address."
        ) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Makes Ctrl-C end the process at once: Python handles no signal while torch waits for other ranks."""
    handled = threading.current_thread() is threading.main_thread()
    if not handled or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@cache
def _nccl_group() -> "dist.ProcessGroup":
    """Returns the process group for GPU tensors.

    The first call creates it: all ranks must make it at the same step, after each has set its GPU.
    """
    # Else NCCL exchanges the addresses of captured tensors during a capture: a rank whose capture failed before would
    # leave the others waiting, and memory of `expandable_segments` cannot be registered.
    os.environ.setdefault("NCCL_GRAPH_REGISTER", "0")
    group = dist.new_group(backend="nccl", timeout=_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup), "every rank is a member"
    return group


@contextmanager
def _detect_lost_rank() -> Iterator[None]:
    """Converts torch's error about a rank that ended to a RankLostError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RankLostError(f"another rank ended ({reason}). Read the error of the rank that ended first.") from error


def choose_device(name: str, ranks: Ranks) -> torch.device:
    """Returns the device of this rank: "auto" means CUDA if available, else the CPU.

    Args:
        name: the value of `train.device`.
        ranks: the ranks that train together; each needs its own GPU.

    Raises:
        ConfigError: there is no CUDA device, or this machine has more ranks than GPUs.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(["train.device = 'cuda': found no CUDA device. Set it to 'auto', or run 'ganctl doctor'."])
    if name == "cpu" or not available:
        return torch.device("cpu")
    if ranks.local_rank >= (count := torch.cuda.device_count()):
        fault = f"found {count} GPUs on this machine, expected more for local rank {ranks.local_rank}"
        raise ConfigError([f"--nproc: {fault}. Start {count} ranks here, or set train.device to 'cpu'."])
    return torch.device("cuda", ranks.local_rank)


def fingerprint(tensors: Iterable[Tensor]) -> list[float]:
    """Returns the sum and the sum of squares of all elements, for comparisons by `assert_equal_across_ranks`."""
    flat = torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])
    return [flat.sum().item(), flat.square().sum().item()]


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Returns this process's global random states, which custom networks may use (for dropout, for example)."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def preserve_random_states(device: torch.device) -> AbstractContextManager[None]:
    """Returns a context that restores the global random states on exit."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def set_random_states(states: Sequence[Mapping[str, Tensor]], ranks: Ranks, device: torch.device) -> None:
    """Restores this rank's global random states.

    Args:
        states: the `random_states` of each rank; a rank or device type that is not in it keeps its current state.
        ranks: the ranks that train now, which may be more.
        device: the device of training.
    """
    if ranks.rank < len(states):
        own = states[ranks.rank]
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], device)
