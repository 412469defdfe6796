"""Kernels side by side: a graph runs what does not depend on each other at the same time, where a stream is a queue.

Small networks' kernels leave most of a GPU idle. What runs in a stream begins when the main stream has come so far, and
the main stream goes on without it until it `join`s. A stream's work may read what the main stream reads, must not write
what that touches, and keeps what it allocates to itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

_PIECE = 16_384  # numbers: PyTorch's kernels for lists of tensors give up to 65,536 to one block, and a layer of a
# million to sixteen of a GPU's 132 multiprocessors
Columns = list[list[Tensor]]


class StreamPool:
    """A number of them beside the main stream; without a CUDA device there are none, and work runs in line."""

    def __init__(self, device: torch.device, count: int) -> None:
        self._streams = [torch.cuda.Stream(device) for _ in range(count)] if device.type == "cuda" else []
        self._open: list[torch.cuda.Stream] = []
        self._turn = 0

    @property
    def count(self) -> int:
        return len(self._streams)

    @contextmanager
    def stream(self, number: int) -> Iterator[None]:
        """What is launched within runs beside the main stream."""
        if not self._streams:
            yield
            return
        stream = self._streams[number]
        stream.wait_stream(torch.cuda.current_stream())
        self._open.append(stream)
        with torch.cuda.stream(stream):
            yield

    def next(self) -> AbstractContextManager[None]:
        """The streams in turn."""
        self._turn += 1
        return self.stream(self._turn % max(1, self.count))

    def split(self, columns: Columns) -> Iterator[Columns]:
        """Lists of tensors, row by row of one shape or scalars, as a share for each stream, large tensors in pieces of
        the same memory. Without streams one share of all."""
        if not self._streams:
            yield columns
            return
        rows = [row for tensors in zip(*columns, strict=True) for row in _pieces(tensors)]
        for stream in range(min(self.count, len(rows))):
            yield [list(column) for column in zip(*rows[stream :: self.count], strict=True)]

    def join(self) -> None:
        """The main stream waits for the streams."""
        for stream in self._open:
            torch.cuda.current_stream().wait_stream(stream)
        self._open.clear()


def _pieces(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """A row of tensors as rows of pieces."""
    if not all(tensor.is_contiguous() for tensor in tensors):  # channels are last: such layers are small
        yield tuple(tensors)
        return
    flat = [tensor.view(-1).split(_PIECE) for tensor in tensors]
    count = max(map(len, flat))
    yield from zip(*(pieces * (count // len(pieces)) for pieces in flat), strict=True)


NO_STREAMS = StreamPool(torch.device("cpu"), 0)
