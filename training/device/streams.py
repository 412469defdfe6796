"""Side streams let independent kernels of a captured graph overlap.

The kernels of small networks leave most of a GPU idle. Work in a side stream starts after the earlier work of the main
stream, which continues until it calls `join`. Work in a side stream must not write memory that the main stream reads or
writes, and must keep its own allocations alive until `join`.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

# elements of a chunk: PyTorch's kernels for tensor lists give up to 65,536 elements to one block, so a layer of a
# million elements would use only 16 of a GPU's 132 multiprocessors
_CHUNK = 16_384
TensorLists = list[list[Tensor]]


class StreamPool:
    """A fixed number of CUDA side streams. On other devices there are none, and work runs in the main stream."""

    def __init__(self, device: torch.device, count: int) -> None:
        self._streams = [torch.cuda.Stream(device) for _ in range(count)] if device.type == "cuda" else []
        self._to_join: list[torch.cuda.Stream] = []
        self._next = 0

    @property
    def count(self) -> int:
        return len(self._streams)

    @contextmanager
    def stream(self, index: int) -> Iterator[None]:
        """Launches the kernels of the context in one side stream, after the earlier work of the main stream."""
        if not self._streams:
            yield
            return
        stream = self._streams[index]
        stream.wait_stream(torch.cuda.current_stream())
        self._to_join.append(stream)
        with torch.cuda.stream(stream):
            yield

    def next(self) -> AbstractContextManager[None]:
        """Like `stream`, with the side streams in round-robin order."""
        self._next += 1
        return self.stream(self._next % max(1, self.count))

    def split(self, lists: TensorLists) -> Iterator[TensorLists]:
        """Splits parallel lists of tensors into one share for each stream; large tensors are split into chunks (views).

        Args:
            lists: the i-th tensors of all lists must have the same shape or be scalars.

        Yields:
            The lists of a share; without streams, one share that holds everything.
        """
        if not self._streams:
            yield lists
            return
        rows = [row for tensors in zip(*lists, strict=True) for row in _chunks(tensors)]
        for first in range(min(self.count, len(rows))):
            yield [list(share) for share in zip(*rows[first :: self.count], strict=True)]

    def join(self) -> None:
        """Makes the main stream wait for the side streams."""
        for stream in self._to_join:
            torch.cuda.current_stream().wait_stream(stream)
        self._to_join.clear()


def _chunks(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Splits corresponding tensors into corresponding chunks; scalars are repeated."""
    if not all(tensor.is_contiguous() for tensor in tensors):  # channels-last layers are small: not split
        yield tuple(tensors)
        return
    flat = [tensor.view(-1).split(_CHUNK) for tensor in tensors]
    count = max(map(len, flat))
    yield from zip(*(chunks * (count // len(chunks)) for chunks in flat), strict=True)


NO_STREAMS = StreamPool(torch.device("cpu"), 0)
