"""Drains a TorchServe: no new connections, and a reply to every accepted request, within a time limit.

TorchServe cannot drain, so this is done from outside:

1. The listening socket of the front end is shut down, so that the kernel refuses new connections.
2. A marker request is queued behind all waiting requests. Its reply shows that workers have taken them all.
3. The workers answer later requests on open connections with 503, after which the front end closes the connection.
4. Draining ends when no worker is busy and no reply waits to be sent.
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

from ganctl.serving.client.connections import local_client
from ganctl.serving.hosts.worker.commands import DRAINING

_log = logging.getLogger(__name__)
_PIDFD_GETFD = 438  # the same number on every architecture
_LISTENING = "0A"  # in /proc/net/tcp
_POLL_SECONDS = 0.05
_IDLE_POLLS = 5  # in a row; they take longer than the workers' own poll of the draining flag


def drain(
    pid: int,
    url: str,
    authorization: Mapping[str, str],
    state: Path,
    *,
    busy: Callable[[], bool],
    seconds: float,
    abort: threading.Event,
) -> bool:
    """Drains the front end `pid` that answers at `url`, and returns whether all requests were answered in time.

    Args:
        pid: process id of the front end.
        url: base URL of the inference port.
        authorization: headers with the token, if the server demands one.
        state: the folder of the workers' commands.
        busy: returns whether a worker is answering a batch.
        seconds: the time limit.
        abort: ends the wait at once when it is set.
    """
    deadline = time.monotonic() + seconds
    port = int(url.rpartition(":")[2])

    def remaining() -> float:
        return max(0.1, deadline - time.monotonic())

    with local_client(base_url=url, headers=dict(authorization)) as client:
        with contextlib.suppress(httpx.TransportError):
            client.get("/ping", timeout=remaining())  # opens the connection before new ones are refused
        stop_listening(pid, port)
        with contextlib.suppress(httpx.TransportError):
            # Any reply will do: it shows that all requests before this one have been taken.
            marker = {"Accept": "application/openapi+json"}
            client.get("/predictions/digits", headers=marker, timeout=remaining())
    try:
        (state / DRAINING).touch()
    except OSError as error:  # on a full disk the workers go on answering requests of open connections
        _log.warning("%s: %s; cannot set the draining flag of the workers", state, error.strerror)
    idle_polls = 0
    while idle_polls < _IDLE_POLLS:
        if abort.wait(_POLL_SECONDS) or time.monotonic() > deadline:
            return False
        idle_polls = 0 if busy() or _has_unsent_bytes(port) else idle_polls + 1
    return True


def stop_listening(pid: int, port: int) -> None:
    """Makes the kernel refuse new connections to a port that the process listens on; open connections stay.

    Has no effect where the kernel does not allow it, as in a container without the right to trace its own processes.
    New connections are then accepted, and the workers answer them with 503.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        process = os.pidfd_open(pid)
        stack.callback(os.close, process)
        for number in _listening_descriptors(pid, port):
            copied = ctypes.CDLL(None).syscall(_PIDFD_GETFD, process, number, 0)
            if copied >= 0:
                stack.enter_context(socket.socket(fileno=copied)).shutdown(socket.SHUT_RD)


def _listening_descriptors(pid: int, port: int) -> list[int]:
    inodes = {f"socket:[{inode}]" for state, local, _, inode in _tcp_sockets() if state == _LISTENING and local == port}
    descriptors = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            if str(entry.readlink()) in inodes:
                descriptors.append(int(entry.name))
    return descriptors


def _has_unsent_bytes(port: int) -> bool:
    """Returns whether bytes of replies wait to be sent or acknowledged."""
    return any(local == port and unsent for state, local, unsent, _ in _tcp_sockets() if state != _LISTENING)


def _tcp_sockets() -> list[tuple[str, int, int, str]]:
    """State, local port, unsent bytes and inode of every TCP socket."""
    sockets = []
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for line in path.read_text("ascii").splitlines()[1:] if path.exists() else ():
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            sockets.append((fields[3], port, int(fields[4].partition(":")[0], 16), fields[9]))
    return sockets
