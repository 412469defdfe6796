"""Memory that the ranks of one machine share: they meet in it, and average small and large tensors, without a network.

A message of a few numbers takes gloo the better part of a millisecond, as sockets put threads to sleep and wake them;
here a rank that waits keeps looking, and has it after 15 µs. Ranks read what others write without a lock, which is
sound where stores become visible in their order: on x86-64 (Intel's manual, volume 3, section 10.2.2), not on ARM.
"""

import fcntl
import logging
import mmap
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from ganctl.training.errors import RankLostError

_FOLDER = Path("/dev/shm")
_HEAD = 4096  # bytes for the marks by which ranks meet, each on a cache line of its own
_LINE = 64
_MAIL = 1 << 20  # bytes that a rank gives to the others at a time: more would not stay in a core's cache
_PATIENCE = 0.05  # seconds to look before a rank looks less often, and after the others
_REST = 2e-4  # seconds between two looks then

_log = logging.getLogger(__name__)
Exchange = Callable[[object], list[object]]  # gives every rank what each of them brings, in the ranks' order


class SharedMemory:
    """What the ranks of one machine share. Every method is for all ranks at the same time, in the same order."""

    def __init__(self, rank: int, size: int, exchange: Exchange, file: int) -> None:
        """`file` is open on every rank; `open` makes it."""
        self._rank, self._size, self._exchange, self._file = rank, size, exchange, file
        memory = mmap.mmap(file, 0)
        self._marks = memoryview(memory).cast("q")
        self._mail = torch.frombuffer(memory, dtype=torch.uint8, offset=_HEAD)
        self._views: dict[torch.dtype, Tensor] = {}
        self._meetings, self._turn = 0, 0
        fcntl.lockf(file, fcntl.LOCK_EX, 1, rank)  # the kernel lets go of it when this process ends
        exchange(None)

    @staticmethod
    def open(rank: int, size: int, exchange: Exchange) -> "SharedMemory | None":
        """Shared by all ranks, or None on all of them: where one of them cannot see it, or there is not enough of it,
        or stores are seen out of order."""
        if size * _LINE > _HEAD:
            return None
        able = sys.platform == "linux" and platform.machine() == "x86_64" and _FOLDER.is_dir()
        if not all(exchange(able)):
            return None
        file = _map(rank, _HEAD + 2 * size * _MAIL, exchange)
        return None if file is None else SharedMemory(rank, size, exchange, file)

    def meet(self) -> None:
        """Goes on when every rank has come here: what each of them wrote before is there for all.

        Raises:
            RankLostError: one has ended.
        """
        self._meetings += 1
        self._marks[_LINE // 8 * self._rank] = self._meetings
        for other in range(self._size):
            if self._marks[_LINE // 8 * other] < self._meetings:
                self._wait_for(other)

    def gather(self, x: Tensor) -> Tensor:
        """x of each rank, [ranks, ...] in their order; of at most 1 MiB."""
        return self._post(x.reshape(-1)).clone().view(self._size, *x.shape)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their means over the ranks, to the same bits on all of them."""
        for tensor in tensors:
            flat = flatten(tensor)
            for piece in flat.split(self._of_type(flat.dtype).shape[-1]):
                rows = self._post(piece)
                if self._size == 2:  # half the time
                    torch.lerp(rows[0], rows[1], 0.5, out=piece)
                else:
                    torch.mean(rows, dim=0, out=piece)

    def empty(self, like: Sequence[Tensor]) -> list[Tensor] | None:
        """Tensors of zeros, laid out as those, that every rank reads and writes; None where there is no room."""
        offsets = list(accumulate((-(-tensor.nbytes // _LINE) * _LINE for tensor in like), initial=0))
        file = _map(self._rank, max(_LINE, offsets[-1]), self._exchange)
        if file is None:
            return None
        memory = mmap.mmap(file, 0)
        memory.madvise(mmap.MADV_HUGEPAGE)  # as `memory.py`, where the kernel gives shared memory some
        os.close(file)
        return [  # each with a storage of its own, so that what copies or saves one takes no more with it
            torch.frombuffer(memory, dtype=tensor.dtype, offset=offset, count=tensor.numel()).as_strided(
                tensor.shape, tensor.stride()
            )
            for tensor, offset in zip(like, offsets, strict=False)
        ]

    def close(self) -> None:
        """This rank meets the others no more; tensors stay."""
        os.close(self._file)

    def _post(self, row: Tensor) -> Tensor:
        """Everyone's row, [ranks, numbers], to be read before the next meeting but one."""
        assert row.nbytes <= _MAIL, "more than a turn's mail"
        self._turn ^= 1  # when this turn is written again, all have come to the next meeting, and so have read it
        mail = self._of_type(row.dtype)[self._turn, :, : len(row)]
        mail[self._rank].copy_(row)
        self.meet()
        return mail

    def _of_type(self, dtype: torch.dtype) -> Tensor:
        """The mail as numbers, [turns, ranks, numbers]."""
        if dtype not in self._views:
            self._views[dtype] = self._mail.view(dtype).view(2, self._size, -1)
        return self._views[dtype]

    def _wait_for(self, other: int) -> None:
        place, patience = _LINE // 8 * other, time.monotonic() + _PATIENCE
        while self._marks[place] < self._meetings:
            os.sched_yield()  # where there are more ranks than cores, it may be the other's turn
            if time.monotonic() < patience:
                continue
            time.sleep(_REST)
            if self._has_ended(other) and self._marks[place] < self._meetings:
                raise RankLostError(
                    f"another rank went away (rank {other}); what the one that ended first said tells why"
                )

    def _has_ended(self, other: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, other)
        except OSError:
            return False  # it holds its byte
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, other)  # the others are to see it, too
        return True


def flatten(tensor: Tensor) -> Tensor:
    """The same numbers as one row, in their order in memory, whatever order their axes have there."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _map(rank: int, size: int, exchange: Exchange) -> int | None:
    """A file of so many bytes in memory, open on every rank and without a name; None on all where one has it not."""
    file, name, trouble = -1, "", None
    try:
        if rank == 0:
            file, name = tempfile.mkstemp(prefix="ganctl-", dir=_FOLDER)
            os.posix_fallocate(file, 0, size)  # now: a disk that is found to be full while it is written to is SIGBUS
    except OSError as error:
        trouble = error
    name = str(exchange(name)[0])
    try:
        if rank > 0:
            file = os.open(name, os.O_RDWR)
    except OSError as error:
        trouble = error
    troubles = [told for told in exchange(trouble and str(trouble)) if told]
    if rank == 0 and name:
        Path(name).unlink()
    if not troubles:
        return file
    _log.info("ranks share no memory: %s", troubles[0])
    if file >= 0:
        os.close(file)
    return None
