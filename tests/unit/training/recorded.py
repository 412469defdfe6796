"""Stand-in for a CUDA graph on a CPU: records all tensor operations, and replays them on the same memory.

Messages between ranks are such operations, too. Unlike a capture, a recording runs them, so all ranks must record.

As with a CUDA graph, a replay runs no Python code: numbers that Python computed keep their values of the recording.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class Recorder(TorchDispatchMode):
    """Records the operations that run in its context, in `calls`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types for it
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.inplace_view not in func.tags:  # those change the shape of a tensor object, not its memory
            self.calls.append((func, args, kwargs or {}, tree_map_only(Tensor, _alias, result)))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Runs every operation again, and writes its result into the memory of the recorded one."""
        for func, args, kwargs, result in self.calls:
            arguments = {a.untyped_storage().data_ptr() for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)}
            for target, value in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                # views and in-place results already have their values
                if isinstance(target, Tensor) and target.untyped_storage().data_ptr() not in arguments:
                    target.copy_(value)
                elif isinstance(value, torch.ScriptObject):  # of a message between ranks
                    dist.Work.unbox(value).wait()

    @property
    def names(self) -> list[str]:
        """Names of the recorded operations."""
        return [str(func) for func, *_ in self.calls]


def _alias(tensor: Tensor) -> Tensor:
    """Returns another tensor object on the same memory, which later in-place views do not change."""
    return tensor.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def recorded(work: Callable[[], None], rng: torch.Generator) -> Callable[[], None]:
    """Stand-in for `capture_on_cuda`. The recording runs `work`, so the first replay does nothing."""
    with Recorder() as recorder:
        work()
    replays = iter(range(1_000_000))

    def replay() -> None:
        if next(replays):
            recorder.replay()

    return replay
