"""Ports stay reserved from the moment they are chosen until the server listens on them, seconds later."""

import socket

import pytest

from ganctl.serving.hosts.torchserve.ports import reserve_ports


def listen(port: int, *, reuse: bool) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        listener.bind(("127.0.0.1", port))
        listener.listen()


def test_only_a_server_with_so_reuseaddr_can_listen_on_a_reserved_port() -> None:
    with reserve_ports("127.0.0.1", 0) as ports:
        assert len(set(ports)) == 5
        for number in ports:
            with pytest.raises(OSError, match="in use"):
                listen(number, reuse=False)
            listen(number, reuse=True)  # as TorchServe does
