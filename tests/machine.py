"""What the machine that runs the tests can do; what depends on it skips itself, with the reason."""

import ctypes
import functools
import mmap
import os
import re
import socket
import sys
from pathlib import Path

_PIDFD_GETFD = 438  # the same number on every architecture


@functools.cache
def may_copy_sockets() -> bool:
    """Whether a process may have a copy of another's sockets: containers forbid it where they forbid to trace."""
    if sys.platform != "linux":
        return False
    own = os.pidfd_open(os.getpid())
    with socket.socket() as some:
        copied: int = ctypes.CDLL(None).syscall(_PIDFD_GETFD, own, some.fileno(), 0)
    os.close(own)
    if copied >= 0:
        os.close(copied)
    return copied >= 0


def large_pages_given(size: int) -> int:
    """How many bytes of a block of `size` the kernel backs with large pages now, where they are asked for."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return 0
    before = _anonymous_large_pages()
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        try:
            block.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them
            return 0
        for place in range(0, size, mmap.PAGESIZE):
            block[place] = 1
        return _anonymous_large_pages() - before


def _anonymous_large_pages() -> int:
    (kilobytes,) = re.findall(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return 1024 * int(kilobytes)
