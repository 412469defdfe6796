"""Free ports are the server's from the moment they are found, though it listens on them only seconds later."""

import socket

import pytest

from ganctl.serving.hosts.torchserve.ports import free_ports

NAMES = ("inference", "management", "metrics", "grpc", "grpc_management")


def listen(port: int, *, reuse: bool) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        listener.bind(("127.0.0.1", port))
        listener.listen()


def test_nobody_else_gets_them_before_the_server_listens_there() -> None:
    ports = free_ports("127.0.0.1", 0)
    numbers = [getattr(ports, name) for name in NAMES]
    assert len(set(numbers)) == 5
    for number in numbers:
        with pytest.raises(OSError, match="in use"):
            listen(number, reuse=False)
        listen(number, reuse=True)  # as TorchServe does
    ports.release()
