"""Control socket through which `ganctl deploy` sends a command to the `ganctl serve` of a port.

It is a Unix socket in the abstract namespace, so no file can be left behind. Both ends read the peer's user from the
kernel: only the server's user (or root) can send commands, and no other user can impersonate the server.
"""

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ganctl.errors import exit_code_and_message
from ganctl.serving.errors import ServerError

Message = Mapping[str, Any]

_MAX_BYTES = 1 << 16
_READ_TIMEOUT, _CLOSE_TIMEOUT = 5.0, 2.0  # seconds
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


class ControlSocket:
    """Receives commands for the server of a port, one at a time, until it is closed."""

    def __init__(self, port: int, handle: Callable[[Message], Message]) -> None:
        """Start listening in a thread.

        Args:
            port: the server's inference port.
            handle: executes a command and returns its result.
        """
        self._handle = handle
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(_address(port))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._listen, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; a command in progress has a short time to finish."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RD)  # unblocks accept
        self._listener.close()
        self._thread.join(_CLOSE_TIMEOUT)  # the address is free once accept has returned

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection:
                if peer_uid(connection) in (os.getuid(), 0):
                    with contextlib.suppress(OSError):  # the client has disconnected
                        _send(connection, self._execute(connection))

    def _execute(self, connection: socket.socket) -> Message:
        """Read and execute a command; returns its result, or its error with the exit code."""
        connection.settimeout(_READ_TIMEOUT)
        try:
            command = _receive(connection)
            connection.settimeout(None)
            return {"done": self._handle(command)}
        except Exception as error:  # any defect is reported to the client, and the thread goes on
            code, message = exit_code_and_message(error)
            return {"error": message, "exit_code": code}


def send_command(port: int, command: Message) -> Message:
    """Send a command to the server of a port and return its result.

    Raises:
        ServerError: no server listens, it belongs to another user, or the command failed. In the last case the
            exception has the message and the exit code of the failure.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(_address(port))
        except OSError as error:
            raise ServerError(
                f"--port {port}: no `ganctl serve` of this user answers there ({error}). Start one, or give its port."
            ) from error
        if peer_uid(connection) not in (os.getuid(), 0):
            raise ServerError(f"--port {port}: the server there is another user's. Deploy as that user.")
        _send(connection, command)
        answer = _receive(connection)
    if "error" in answer:
        failure = ServerError(answer["error"])
        failure.exit_code = answer["exit_code"]
        raise failure
    result: Message = answer["done"]
    return result


def _address(port: int) -> str:
    return f"\0ganctl-serve-{port}"


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process at the other end."""
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(option)[1])


def _send(connection: socket.socket, message: Message) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> Message:
    with connection.makefile("rb") as stream:
        message: Message = json.loads(stream.readline(_MAX_BYTES))
    return message
