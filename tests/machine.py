"""Detects features of this machine and its kernel. Tests that need a missing feature are skipped."""

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
    """Returns whether a process may copy the sockets of another one; containers that forbid tracing forbid it too."""
    if sys.platform != "linux":
        return False
    own = os.pidfd_open(os.getpid())
    with socket.socket() as sock:
        copied: int = ctypes.CDLL(None).syscall(_PIDFD_GETFD, own, sock.fileno(), 0)
    os.close(own)
    if copied >= 0:
        os.close(copied)
    return copied >= 0


def large_pages_given(size: int) -> int:
    """Allocates `size` bytes with MADV_HUGEPAGE, and returns how many of them the kernel backs with huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return 0
    before = _huge_page_bytes()
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        try:
            block.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # this kernel has no huge pages
            return 0
        for offset in range(0, size, mmap.PAGESIZE):
            block[offset] = 1
        return _huge_page_bytes() - before


def _huge_page_bytes() -> int:
    (kilobytes,) = re.findall(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return 1024 * int(kilobytes)
