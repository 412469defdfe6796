"""Many ranks that train as one: what crosses between the processes, and when.

P ranks take equal shares of every batch. Gradients, statistics and the batch statistics of normalisation layers are
those of the whole batch, so that the ranks' weights stay equal and are those that one rank would have. With one rank
everything here does nothing. Launched by torchrun, by `ganctl train --nproc` (`launch_ranks.py`), or by whatever sets
the same variables (`rank_environment.py`). Tensors on
CPUs go through gloo, tensors on GPUs through NCCL.
"""

import datetime
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ganctl.training.distributed.rank_environment import RankEnvironment, read_rank_environment
from ganctl.training.distributed.start_token import agree_on_start_token
from ganctl.training.errors import ConfigError, RankLostError, TrainingError

T = TypeVar("T")
_PATIENCE = datetime.timedelta(minutes=30)  # of the ranks that wait while the first one evaluates


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine: which of its GPUs is ours
    restarts: int = 0  # how often torchrun has started this group anew
    alone: bool = True  # whether no launcher has started this process as a rank

    @staticmethod
    def join() -> "Ranks":
        """Takes the place that the launcher's variables give, and meets the other ranks; alone without them.

        Raises:
            ConfigError: the variables contradict each other.
            TrainingError: the other ranks do not come.
        """
        if (place := read_rank_environment(os.environ)) is None:
            return Ranks()
        if place.size > 1 and not dist.is_initialized():
            _meet(place)
        ranks = Ranks(place.rank, place.size, 0, place.restarts, alone=False)
        here = [rank for rank, host in enumerate(ranks.gather(platform.node())) if host == platform.node()]
        local_rank = here.index(place.rank) if place.local_rank is None else place.local_rank
        return replace(ranks, local_rank=local_rank)

    @staticmethod
    def leave() -> None:
        """Parts from the other ranks, without waiting for them; a process that ends without it may be aborted."""
        _nccl.cache_clear()
        if dist.is_initialized():
            dist.destroy_process_group()

    def __deepcopy__(self, memo: object) -> "Ranks":
        return self  # the copy of a network that asks other ranks asks the same ones

    @property
    def first(self) -> bool:
        """Whether this rank is the one that evaluates, writes and speaks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This rank's part of n things."""
        assert n % self.size == 0, "the batch size was checked"
        each = n // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors of one type and device by their means over the ranks: flattened, in one all-reduce."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _company():
            dist.all_reduce(flat, group=_group(flat.device))
        flat /= self.size
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])

    def stack(self, x: Tensor) -> Tensor:
        """x of each rank, [ranks, ...] in their order, on every rank: some thousand numbers."""
        if self.size == 1:
            return x.unsqueeze(0)
        each = [torch.empty_like(x) for _ in range(self.size)]
        with _company():
            dist.all_gather(each, x.contiguous(), group=_group(x.device))
        return torch.stack(each)

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
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

    def broadcast(self, value: T) -> T:
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
        result, code = self.broadcast((result, code))
        if error is not None:
            raise error
        if code is not None:
            raise SystemExit(code)
        return cast(T, result)

    def assert_equal_across_ranks(self, what: str, value: object) -> None:
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


def _meet(place: RankEnvironment) -> None:
    """Waits for the other ranks, and makes the group of all."""
    try:
        with _interruptible():
            store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
            word = agree_on_start_token(store, rank=place.rank, size=place.size, patience=_PATIENCE)
            # gloo carries agreements between the hosts; NCCL comes when something on a GPU is to be shared
            dist.init_process_group(
                "gloo", store=PrefixStore(word, store), rank=place.rank, world_size=place.size, timeout=_PATIENCE
            )
    except (RuntimeError, TimeoutError) as error:  # torch's errors of its stores and of the network are the former
        raise TrainingError(
            f"rank {place.rank} of {place.size} has not met the others at MASTER_ADDR:MASTER_PORT {place.address}"
            f" ({str(error).splitlines()[0]}); start all {place.size} of them, RANK 0 where that address is"
        ) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C end the process at once: while torch waits for other ranks, Python handles no signal."""
    handled = threading.current_thread() is threading.main_thread()
    if not handled or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


def fingerprint(tensors: Iterable[Tensor]) -> list[float]:
    """Two sums over all elements that differ where a weight differs, for `Ranks.assert_equal_across_ranks`."""
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
