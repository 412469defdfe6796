"""Connections of the native host end in time if the client is too slow."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from ganctl.serving.hosts.native import protocol
from tests.integration.serving.wire import BrokenReply, Wire, request
from tests.waiting import PATIENCE, wait_for

LIMIT = 0.3  # seconds
LARGE = 1 << 23  # bytes; more than the buffers of a socket


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Replies with the request's body, or with LARGE bytes to an empty one."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    body = body or bytes(LARGE)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with short time limits."""
    monkeypatch.setattr(protocol, "ARRIVAL_SECONDS", LIMIT)
    monkeypatch.setattr(protocol, "READING_SECONDS", LIMIT)
    config = uvicorn.Config(echo, http=protocol.HttpProtocol, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    wait_for(lambda: server.started, "the server has started")
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(PATIENCE)


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
