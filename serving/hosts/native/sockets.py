"""Sockets on which the workers listen: one of the port for each, and a Unix socket for all."""

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from ganctl.serving.errors import ServerError


def shared_port(bound: socket.socket) -> socket.socket:
    """Returns a new socket for the port of `bound`, to which the kernel gives a share of the connections.

    On one socket for all workers, the worker that happens to be awake accepts nearly all of a client's connections.

    Args:
        bound: a bound socket with SO_REUSEPORT that does not listen.
    """
    listener = socket.socket(bound.family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else connections that ended block a restart
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(bound.getsockname())
    return listener


@contextlib.contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Yields a socket that is bound to `path`; replaces a socket on which no process listens.

    Raises:
        ServerError: the path cannot be used.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            if path.is_socket() and _nobody_listens(path):
                path.unlink()
            listener.bind(str(path))
        except OSError as error:
            raise ServerError(f"--unix-socket {path}: cannot be used ({error}). Give another path.") from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _nobody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == errno.ECONNREFUSED
