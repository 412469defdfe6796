"""Ends a server's work so that nobody notices: no new connections, every request in hand answered, all within a time.

TorchServe has no such end. So its listening socket is shut from outside; a request of our own, behind all that wait,
tells when they have been taken; then the workers refuse what still comes over open connections, with a 503 after which
the front end closes them; and when no worker draws and no reply is on its way, the server may end.
"""

import contextlib
import ctypes
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from ganctl.serving.client.connections import direct
from ganctl.serving.hosts.torchserve.worker.commands import DRAINING

_log = logging.getLogger(__name__)
_PIDFD_GETFD = 438  # the same number on every architecture
_LISTENING = "0A"  # in /proc/net/tcp
_LOOK_EVERY = 0.05  # seconds
_QUIET_LOOKS = 5  # more than the workers need to see the order


def drain(
    pid: int,
    url: str,
    authorization: Mapping[str, str],
    state: Path,
    *,
    busy: Callable[[], bool],
    seconds: float,
    hurry: threading.Event,
) -> bool:
    """Drains the front end `pid` that answers at `url`. Gives whether all was answered before the time was over.

    state: the folder of the workers' orders. busy: whether a worker draws. hurry: set when there is no time any more.
    """
    ends = time.monotonic() + seconds
    port = int(url.rpartition(":")[2])

    def left() -> float:
        return max(0.1, ends - time.monotonic())

    with direct(base_url=url, headers=dict(authorization)) as client:
        with contextlib.suppress(httpx.TransportError):
            client.get("/ping", timeout=left())  # opens the connection, while that is possible
        shut(pid, port)
        with contextlib.suppress(httpx.TransportError):
            # Behind all that wait. Whatever is the answer, those before it have been taken by then.
            marker = {"Accept": "application/openapi+json"}
            client.get("/predictions/digits", headers=marker, timeout=left())
    try:
        (state / DRAINING).touch()
    except OSError as error:  # a full disk: the workers still answer what comes over open connections
        _log.warning("%s: %s; the workers are not told that the server ends", state, error.strerror)
    quiet = 0
    while quiet < _QUIET_LOOKS:
        if hurry.wait(_LOOK_EVERY) or time.monotonic() > ends:
            return False
        quiet = 0 if busy() or _unsent(port) else quiet + 1
    return True


def shut(pid: int, port: int) -> bool:
    """Has the kernel refuse new connections to a port that the process listens on; open ones stay.

    Gives False where the kernel does not let us, as in a container without the right to trace its own processes: then
    new connections are still taken, and refused by the workers.
    """
    try:
        with contextlib.ExitStack() as stack:
            process = os.pidfd_open(pid)
            stack.callback(os.close, process)
            for number in _listening(pid, port):
                copied = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, number, 0)
                if copied < 0:
                    return False
                stack.enter_context(socket.socket(fileno=copied)).shutdown(socket.SHUT_RD)
    except OSError:
        return False
    return True


def _listening(pid: int, port: int) -> list[int]:
    """The file descriptors by which a process listens on a port."""
    inodes = {f"socket:[{inode}]" for state, local, _, inode in _sockets() if state == _LISTENING and local == port}
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if str(entry.readlink()) in inodes:
                found.append(int(entry.name))
    return found


def _unsent(port: int) -> bool:
    """Whether bytes of replies wait to be sent, or to be acknowledged."""
    return any(local == port and waiting for state, local, waiting, _ in _sockets() if state != _LISTENING)


def _sockets() -> list[tuple[str, int, int, str]]:
    """Of every TCP socket: state, local port, bytes that wait to be sent, inode."""
    found = []
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for line in path.read_text("ascii").splitlines()[1:] if path.exists() else ():
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            found.append((fields[3], port, int(fields[4].partition(":")[0], 16), fields[9]))
    return found
