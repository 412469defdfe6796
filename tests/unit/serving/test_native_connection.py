"""Connections of the native host end in time if the client is too slow."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ganctl.serving.hosts.native import connection
from ganctl.serving.hosts.native.connection import Connection, HttpRequest, Respond
from ganctl.serving.hosts.native.http_reply import HttpReply
from tests.integration.serving.wire import BrokenReply, Wire, request
from tests.waiting import PATIENCE

LIMIT = 0.3  # seconds
LARGE = 1 << 23  # bytes; more than the buffers of a socket


class Echo:
    """Replies with the request's body, or with LARGE bytes to an empty one."""

    closing = False

    def max_body(self, path: str) -> int:
        return LARGE

    def answer(self, request: HttpRequest, respond: Respond) -> None:
        respond(HttpReply(200, {}, request.body or bytes(LARGE)))


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with short time limits."""
    monkeypatch.setattr(connection, "ARRIVAL_SECONDS", LIMIT)
    monkeypatch.setattr(connection, "READING_SECONDS", LIMIT)
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(listener, stop)))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    thread.join(PATIENCE)


async def _serve(listener: socket.socket, stop: threading.Event) -> None:
    connections: set[Connection] = set()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(Echo(), connections), sock=listener)
    async with server:
        while not stop.is_set():
            await asyncio.sleep(0.01)
            for each in tuple(connections):
                each.check(time.monotonic())


@pytest.mark.parametrize("cut", [0, 1, 30, -1])
def test_a_request_that_does_not_arrive_gets_408(cut: int, url: str) -> None:
    with Wire(url) as wire:
        wire.send(request(body=b"body")[:cut])
        reply = wire.read()
        assert reply is not None
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert wire.read() is None


def test_a_request_that_arrives_slowly_but_in_time_is_answered(url: str) -> None:
    data = request(body=b"body")
    with Wire(url) as wire:
        for part in (data[:5], data[5:-2], data[-2:]):
            wire.send(part)
            time.sleep(LIMIT / 3)
        reply = wire.read()
    assert reply is not None
    assert (reply.status, reply.body) == (200, b"body")


def test_an_open_connection_may_be_idle_for_longer(url: str) -> None:
    with Wire(url) as wire:
        for _ in range(2):
            wire.send(request(body=b"body"))
            reply = wire.read()
            assert reply is not None
            assert reply.status == 200
            time.sleep(2 * LIMIT)


def test_the_second_request_of_a_connection_has_the_same_limit(url: str) -> None:
    with Wire(url) as wire:
        wire.send(request(body=b"body") + request(body=b"body")[:-1])
        replies = [wire.read(), wire.read()]
    assert [reply and reply.status for reply in replies] == [200, 408]


def test_a_client_that_does_not_read_loses_its_connection(url: str) -> None:
    with Wire(url, buffer=4_096) as wire:
        wire.send(request())
        time.sleep(3 * LIMIT)
        with pytest.raises(BrokenReply):  # only a part of it was sent
            wire.read()
