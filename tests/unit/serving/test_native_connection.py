"""Connections of the native host follow HTTP/1.1, and end in time if the client is too slow."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from ganctl.serving.hosts.native import connection
from ganctl.serving.hosts.native.connection import Connection, HttpRequest, Respond
from ganctl.serving.hosts.native.http_reply import HttpReply
from tests.integration.serving.wire import BrokenReply, Wire, request
from tests.waiting import PATIENCE

LIMIT = 0.3  # seconds
LARGE = 1 << 23  # bytes; more than the buffers of a socket


class Echo:
    """Replies with the request's body, or with LARGE bytes to an empty one.

    Some paths get other replies: `/headers` the request's headers as JSON, `/later` an empty body after a moment.
    """

    closing = False

    def count(self, status: int) -> None:
        pass

    def max_body(self, path: str) -> int:
        return LARGE

    def answer(self, request: HttpRequest, respond: Respond) -> None:
        if request.path == "/later":
            asyncio.get_running_loop().call_later(LIMIT / 3, respond, HttpReply(200, {}, b""))
        elif request.path == "/headers":
            respond(HttpReply(200, {}, json.dumps(request.headers).encode()))
        else:
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


def replies_to(url: str, *parts: bytes) -> list[tuple[int, bytes]]:
    """Sends the parts one by one; returns status and body of all replies until the connection ends."""
    with Wire(url) as wire:
        for part in parts:
            wire.send(part)
            time.sleep(LIMIT / 10)  # so that the server receives each part alone
        replies = iter(wire.read, None)
        return [(reply.status, reply.body) for reply in replies]


CLOSE = ("Connection", "close")
CHUNKED = ("Transfer-Encoding", "chunked")


@pytest.mark.parametrize("cut", [None, 60, -2])
def test_a_request_for_another_protocol_is_answered_in_this_one_with_its_body(cut: int | None, url: str) -> None:
    upgrade = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")]
    data = request(body=b"first", headers=upgrade)
    parts = (data,) if cut is None else (data[:cut], data[cut:])
    assert replies_to(url, *parts, request(body=b"second", headers=[CLOSE])) == [(200, b"first"), (200, b"second")]


def test_trailers_do_not_become_headers(url: str) -> None:
    data = request("POST", "/headers", headers=[CHUNKED, CLOSE], length="")
    ((status, body),) = replies_to(url, data + b"1\r\nx\r\n0\r\nAuthorization: Bearer key\r\n\r\n")
    assert status == 200
    assert "authorization" not in json.loads(body)


def test_a_header_line_or_a_trailer_without_an_end_gets_431(url: str) -> None:
    chunked = request(headers=[CHUNKED], length="") + b"1\r\nx\r\n0\r\nX: "
    for start in (b"GET / HTTP/1.1\r\nX: ", chunked):
        ((status, _),) = replies_to(url, start, *[b"x" * 20_000] * 2)
        assert status == 431


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2"])
def test_other_versions_are_refused(version: bytes, url: str) -> None:
    ((status, _),) = replies_to(url, request("GET", "/headers").replace(b"HTTP/1.1", version))
    assert status == 400


def test_a_client_that_has_closed_its_side_gets_its_replies(url: str) -> None:
    with Wire(url) as wire:
        wire.send(request("GET", "/later") + request(body=b"body"))
        wire.socket.shutdown(socket.SHUT_WR)
        assert [reply.body for reply in iter(wire.read, None)] == [b"", b"body"]


def test_a_body_that_waits_for_permission_gets_it_after_the_reply_before(url: str) -> None:
    body = request(body=b"body", headers=[("Expect", "100-continue"), CLOSE])
    with Wire(url) as wire:
        wire.send(request("GET", "/later") + body[:-4])
        received = b""
        while not received.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            received += (data := wire.socket.recv(1_000))
            assert data, received
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        wire.send(body[-4:])
        reply = wire.read()
    assert reply is not None
    assert (reply.status, reply.body) == (200, b"body")


def test_what_follows_the_last_request_is_ignored(url: str) -> None:
    for more in (request(body=b"more"), b"\0\r\n\r\n", request("GET", "/" + "x" * 70_000)):
        assert replies_to(url, request(body=b"last", headers=[CLOSE]) + more) == [(200, b"last")]


def test_replies_have_a_date(url: str) -> None:
    with Wire(url) as wire:
        wire.send(request(body=b"body"))
        reply = wire.read()
    assert reply is not None
    sent = parsedate_to_datetime(reply.headers["date"])
    assert abs((datetime.now(UTC) - sent).total_seconds()) < PATIENCE


class Held:
    """Replies when the test says so."""

    def __init__(self) -> None:
        self.closing = False
        self.waiting: list[Respond] = []

    def count(self, status: int) -> None:
        pass

    def max_body(self, path: str) -> int:
        return LARGE

    def answer(self, request: HttpRequest, respond: Respond) -> None:
        self.waiting.append(respond)

    def reply(self) -> None:
        self.waiting.pop(0)(HttpReply(200, {}, b""))


class Recorder(asyncio.Transport):
    """Records what the connection does to its transport; the client reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return "close" in self.calls

    def can_write_eof(self) -> bool:
        return True

    def __getattribute__(self, name: str) -> Any:
        if name in ("close", "abort", "write_eof", "pause_reading", "resume_reading"):
            return lambda: self.calls.append(name)
        return super().__getattribute__(name)


def connect() -> tuple[Connection, Held, Recorder]:
    application, transport = Held(), Recorder()
    opened = Connection(application, set())
    opened.connection_made(transport)
    return opened, application, transport


def later(seconds: float) -> float:
    return time.monotonic() + seconds


def test_an_idle_client_that_does_not_read_is_cut_off() -> None:
    opened, application, transport = connect()
    opened.data_received(request("GET"))
    application.reply()
    opened.check(later(connection.IDLE_SECONDS - 1))
    assert transport.calls == []
    opened.check(later(connection.IDLE_SECONDS + 1))
    assert transport.calls == ["close"]
    opened.check(later(connection.CLOSE_SECONDS + 1))
    assert transport.calls == ["close", "abort"]


def test_a_request_that_nobody_reads_is_not_late() -> None:
    opened, application, transport = connect()
    opened.data_received(request("GET") * 19 + request("GET")[:-4])
    assert transport.calls == ["pause_reading"]
    opened.check(later(connection.ARRIVAL_SECONDS + 1))
    assert transport.written == b""

    async def reply_to_all() -> None:
        while application.waiting:
            application.reply()
            await asyncio.sleep(0)  # the connection goes on to the next request

    asyncio.run(reply_to_all())
    assert transport.calls == ["pause_reading", "resume_reading"]
    assert transport.written.count(b"200 OK") == 19
    opened.check(later(connection.ARRIVAL_SECONDS + 1))
    assert b"408" in transport.written


def test_a_shutdown_waits_for_a_request_that_arrives_and_lets_the_client_read_the_reply() -> None:
    opened, application, transport = connect()
    opened.data_received(request(body=b"body")[:-1])
    application.closing = True
    opened.close_if_idle()
    assert transport.calls == []
    opened.data_received(b"y")
    opened.close_if_idle()
    application.reply()
    opened.close_if_idle()
    assert transport.calls == ["write_eof"], "a reset would cut the reply off"
    assert b"connection: close" in transport.written
    opened.check(later(connection.LINGER_SECONDS + 1))
    assert transport.calls == ["write_eof", "close"]


def test_a_shutdown_does_not_wait_for_long_for_a_request_that_arrives() -> None:
    opened, _, transport = connect()
    opened.data_received(request(body=b"body")[:-1])
    opened.limit_arrival(2.0)
    opened.check(later(3.0))
    assert b"408" in transport.written
