"""What a CUDA graph does, on a CPU: records every operation with its tensors and its numbers from the host, and repeats
them on the same memory. What Python computed at the recording, no replay computes again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class Recorder(TorchDispatchMode):
    """The operations while it is entered, in `calls`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has given it no types
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.inplace_view not in func.tags:  # those change what Python knows of a tensor, not its memory
            self.calls.append((func, args, kwargs or {}, tree_map_only(Tensor, _as_it_lies, result)))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Every operation again; what it makes goes where its first result lies."""
        for func, args, kwargs, result in self.calls:
            arguments = {a.untyped_storage().data_ptr() for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)}
            for place, value in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                # a view, or what was changed in place, is there already
                if isinstance(place, Tensor) and place.untyped_storage().data_ptr() not in arguments:
                    place.copy_(value)

    @property
    def names(self) -> list[str]:
        return [str(func) for func, *_ in self.calls]


def _as_it_lies(tensor: Tensor) -> Tensor:
    return tensor.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def recorded(work: Callable[[], None], rng: torch.Generator) -> Callable[[], None]:
    """In the place of `graph.capture_on_cuda`, which runs nothing when it captures: the first replay has been the
    recording."""
    with Recorder() as recorder:
        work()
    replays = iter(range(1_000_000))

    def replay() -> None:
        if next(replays):
            recorder.replay()

    return replay
