"""How one command reaches another's server: `ganctl deploy` gives its order to the `ganctl serve` of a port.

Over a Unix socket in the abstract namespace: it has no file that could be left behind, and both ends ask the kernel who
the other is, so that only the user who serves (or root) can give orders, and nobody can pose as his server.
"""

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ganctl.serving.errors import ServerError, ServingError

Message = Mapping[str, Any]

_MOST_BYTES = 1 << 16
_TO_READ, _TO_END = 5.0, 2.0  # seconds
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


class Control:
    """Listens for orders to the server of a port, one at a time, until it is closed."""

    def __init__(self, port: int, handle: Callable[[Message], Message]) -> None:
        self._obey = handle
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(_address(port))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._listen, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Takes no more orders."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RD)  # ends the wait for the next
        self._listener.close()
        self._thread.join(_TO_END)  # the name is free again once it no longer waits there

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection:
                if _peer(connection) in (os.getuid(), 0):
                    with contextlib.suppress(OSError):  # whoever asked has gone
                        _send(connection, self._answer(connection))

    def _answer(self, connection: socket.socket) -> Message:
        connection.settimeout(_TO_READ)
        try:
            order = _receive(connection)
            connection.settimeout(None)
            return {"done": self._obey(order)}
        except ServingError as error:
            return {"error": str(error), "exit_code": error.exit_code}
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            told = f"the server could not do it: {where}{error.strerror or error}. The old version is served."
            return {"error": told, "exit_code": 1}
        except Exception as error:  # whatever it is: who asked is told, and the next order finds someone who listens
            return {"error": f"the server could not do it: {error!r}", "exit_code": 1}


def give(port: int, order: Message) -> Message:
    """Has the server of a port handle. Raises ServerError where there is none, or what it says is wrong."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(_address(port))
        except OSError as error:
            raise ServerError(
                f"--port {port}: no `ganctl serve` of this user answers on this machine for that port ({error}). "
                "Start one, or name the port that it printed."
            ) from error
        if _peer(connection) not in (os.getuid(), 0):
            raise ServerError(f"--port {port}: the server there is another user's; its user can give it orders.")
        _send(connection, order)
        answer = _receive(connection)
    if "error" in answer:
        refusal = ServerError(answer["error"])
        refusal.exit_code = answer["exit_code"]
        raise refusal
    done: Message = answer["done"]
    return done


def _address(port: int) -> str:
    return f"\0ganctl-serve-{port}"


def _peer(connection: socket.socket) -> int:
    """The user at the other end."""
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(option)[1])


def _send(connection: socket.socket, message: Message) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> Message:
    data = b""
    while not data.endswith(b"\n"):
        more = connection.recv(_MOST_BYTES)
        if not more or len(data) > _MOST_BYTES:
            raise ValueError(f"expected a line of JSON, found {data[:80]!r}")
        data += more
    message: Message = json.loads(data)
    return message
