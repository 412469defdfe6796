"""Large pages for the host's memory: a step on a CPU reads and writes some hundred megabytes, and with pages of 4 kB it
spends a twentieth of its time looking up where they are."""

import ctypes
import platform
import sys
from pathlib import Path

_SIZE = 1 << 28  # bytes of heap that are made ready; not taken before they are used
_PAGE = 1 << 21
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
_MADV_HUGEPAGE = 14  # <sys/mman.h>
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_large_pages() -> str | None:
    """Has what the process allocates from now on in one heap, that the kernel backs with pages of 2 MB where it can.

    Returns:
        why it does not, None where it does.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return "needs Linux with glibc"
    try:
        return _set_up()
    except (OSError, ValueError) as error:  # the kernel hides a file, or writes it differently: training goes on
        return f"{type(error).__name__}: {error}"


def _set_up() -> str | None:
    if not _SETTING.exists() or b"[never]" in _SETTING.read_bytes():
        return f"the kernel gives none ({_SETTING})"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for name, value in ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _SIZE)):
        libc.mallopt(name, value)  # large blocks from the heap, which is never given back
    libc.free(libc.malloc(_SIZE))
    for line in Path("/proc/self/maps").read_bytes().splitlines():  # it names files, which may be of any bytes
        first, last = (int(address, 16) for address in line.split()[0].split(b"-"))
        first, last = -(-first // _PAGE) * _PAGE, last // _PAGE * _PAGE
        if line.endswith(b"[heap]") and last > first and libc.madvise(first, last - first, _MADV_HUGEPAGE):
            return f"madvise failed with errno {ctypes.get_errno()}"
    return None
