"""HTTP/1.1 connections: parses requests, sends replies in their order, and ends the connections of slow clients."""

import asyncio
import functools
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import NoReturn, Protocol
from urllib.parse import unquote

import httptools

from ganctl.serving.hosts.native.http_reply import HttpReply, refusal

ARRIVAL_SECONDS = 20.0  # for a request's head to arrive, and again for its body
READING_SECONDS = 60.0  # for a client to read on, once its reply fills the buffers
IDLE_SECONDS = 75.0  # until a connection without requests is closed
LINGER_SECONDS = 2.0  # in which a client may read its last reply while it still sends
CLOSE_SECONDS = 1.0  # for an idle client to confirm the end of a TLS connection
MAX_TARGET, MAX_HEAD = 65_536, 32_768  # bytes of the path with the query, as many as of a body; and of all headers
_MAX_WAITING = 16  # requests that wait for the reply to the one before them; above, nothing more is read

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_WITHOUT_LENGTH = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)  # RFC 9110, section 8.6
_NOT_HTTP = refusal(HTTPStatus.BAD_REQUEST, "The request is not valid HTTP/1.1.")
_LONG_TARGET = refusal(HTTPStatus.REQUEST_URI_TOO_LONG, f"The path with its query is longer than {MAX_TARGET:,} bytes.")
_LONG_HEAD = refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The headers are longer than {MAX_HEAD:,} bytes.")
_LATE = refusal(HTTPStatus.REQUEST_TIMEOUT, f"The request did not arrive within {ARRIVAL_SECONDS:g} s.")


@dataclass(slots=True)
class HttpRequest:
    """A request; of a body that is too long, only a first part, which is longer than allowed, too.

    Names of headers are in lower case; the values of a repeated one are joined (RFC 9110, section 5.3).
    """

    method: str
    path: str
    query: bytes
    headers: dict[str, str]
    body: bytes
    peer: str | None  # the address of the client; None on a Unix socket
    is_last: bool  # of its connection
    arrived: float = field(default_factory=time.perf_counter)


Respond = Callable[[HttpReply], None]


class _ParserStopped(Exception):
    """Raised by a method that the parser calls, to stop it."""


class Application(Protocol):
    """Answers requests."""

    closing: bool  # whether each reply is the last one of its connection

    def max_body(self, path: str) -> int:
        """Returns the number of bytes that a body for this path may have."""
        ...

    def answer(self, request: HttpRequest, respond: Respond) -> None:
        """Calls `respond` with the reply, now or later."""
        ...

    def count(self, status: int) -> None:
        """Counts a reply to what is no request."""
        ...


class Connection(asyncio.Protocol):
    """A connection. The methods `on_…` are called by the parser."""

    def __init__(self, application: Application, connections: "set[Connection]") -> None:
        """Prepares a connection, which is a member of `connections` while it is open."""
        self._application, self._connections = application, connections
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[HttpRequest] = deque()  # complete ones that wait for the reply to the one before them
        self._answered: HttpRequest | None = None  # the one that is being answered
        self._refusal: HttpReply | None = None  # the reply to what is no request, after all others
        self._is_arriving = False  # whether a part of a request is here
        self._is_ended = False  # whether what arrives is ignored, because the last request is here
        self._is_cut = False  # whether the client may still send, because it did not announce the end
        self._unparsed = 0  # bytes of a head or trailer that the parser has not passed on yet
        self._is_expecting = False  # whether the client sends the body after `100 Continue`
        self._has_head = False  # whether the head of the request is complete: what follows are trailers
        self._is_reading_paused, self._is_writing_paused = False, False
        self._arrival_deadline = math.inf  # for the rest of the request's head or body
        self._idle_deadline = math.inf
        self._reading_deadline = math.inf  # for the client to read on

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a listener has streams only
        self._transport = transport
        self._connections.add(self)
        peer = transport.get_extra_info("peername")
        self._peer: str | None = peer[0] if isinstance(peer, tuple) else None
        self._arrival_deadline = time.monotonic() + ARRIVAL_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_ended = True
        self._requests.clear()
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._is_ended:
            return
        self._unparsed += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _ParserStopped):  # a defect
                raise
            if not self._is_ended:
                assert self._refusal is not None, "the parser was stopped for a reason"
                self._refuse(self._refusal)
        except httptools.HttpParserError:
            if not self._is_ended:
                self._refuse(_NOT_HTTP)
        if self._unparsed > MAX_HEAD and not self._is_ended:
            self._refuse(_LONG_HEAD)
        if self._is_arriving and self._arrival_deadline == math.inf:
            self._arrival_deadline = time.monotonic() + ARRIVAL_SECONDS

    def eof_received(self) -> bool:
        """Keeps the connection open until the requests that are here are answered; the client sends no more."""
        last = self._requests[-1] if self._requests else self._answered
        if last is None or not self._transport.can_write_eof():
            return False
        if self._refusal is None:
            last.is_last = True
        self._is_arriving, self._is_ended, self._arrival_deadline = False, True, math.inf
        return True

    def pause_writing(self) -> None:
        self._is_writing_paused, self._reading_deadline = True, time.monotonic() + READING_SECONDS

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if not self._transport.is_closing():
            self._reading_deadline = math.inf
        self._answer_next()

    def on_message_begin(self) -> None:
        if self._is_ended:
            raise _ParserStopped  # what follows the last request is ignored
        self._is_arriving, self._is_expecting, self._has_head = True, False, False
        self._target, self._body, self._head_bytes, self._unparsed = b"", b"", 0, 0
        self._headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._unparsed = 0
        if len(self._target) > MAX_TARGET:
            self._stop(_LONG_TARGET)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD:
            self._stop(_LONG_HEAD)
        self._unparsed = 0
        if self._has_head:
            return  # a trailer, which must not take the place of a header (RFC 9110, section 6.5.1)
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "replace")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        if self._is_upgrade():
            return  # `_feed` has the parser read the request once more
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._stop(_NOT_HTTP)
        self._has_head = True
        self._path, self._query = _split(self._target)
        self._max_body = self._application.max_body(self._path)
        self._arrival_deadline = math.inf  # the body has a deadline of its own
        self._is_expecting = version == "1.1" and self._headers.get("expect", "").lower() == "100-continue"
        self._continue()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        if self._is_ended:
            return
        self._is_expecting = False
        self._body += body
        if len(self._body) > self._max_body:
            self._is_cut = True
            self._complete(is_last=True)

    def on_message_complete(self) -> None:
        if self._is_ended or self._is_upgrade():
            return
        parser = self._parser
        keeps_open = parser.should_keep_alive() and not parser.should_upgrade() and parser.get_http_version() != "1.0"
        self._complete(is_last=not keeps_open)

    def check(self, now: float) -> None:
        """Ends the connection if a time limit has passed.

        Args:
            now: the time in seconds, of `time.monotonic`.
        """
        if now > self._reading_deadline:
            self._transport.abort()
        elif now > self._arrival_deadline and not self._is_reading_paused:
            self._refuse(_LATE)
        elif now > self._idle_deadline and self._is_idle():
            self._close(CLOSE_SECONDS)

    def limit_arrival(self, seconds: float) -> None:
        """Gives a request that is arriving at most so long."""
        if self._is_arriving:
            self._arrival_deadline = min(self._arrival_deadline, time.monotonic() + seconds)

    def close_if_idle(self) -> None:
        """Closes the connection if no request arrives or waits for its reply, and the client has read all replies."""
        if self._is_idle() and not self._is_ended:
            self._close(CLOSE_SECONDS)

    def _is_idle(self) -> bool:
        return self._answered is None and not self._requests and not self._is_arriving

    def _close(self, seconds: float) -> None:
        """Closes the connection once the client has read what was sent, which may take so long."""
        if not self._transport.is_closing():
            self._transport.close()
            self._reading_deadline = min(self._reading_deadline, time.monotonic() + seconds)

    def _feed(self, data: bytes) -> None:
        """Has the parser read data. Requests for another protocol are answered in this one (RFC 9110, section 7.8).

        The parser takes what follows the head of such a request for the other protocol, also a body. So it gets the
        head once more, without `Upgrade`.
        """
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._is_ended:
                    return
                method, version = self._parser.get_method().decode("latin-1"), self._parser.get_http_version()
                fields = "".join([f"{name}: {value}\r\n" for name, value in self._headers.items() if name != "upgrade"])
                head = f"{method} {self._target.decode('latin-1')} HTTP/{version}\r\n".encode("latin-1")
                data = head + f"{fields}\r\n".encode() + data[upgrade.args[0] :]
            else:
                return

    def _is_upgrade(self) -> bool:
        """Returns whether the request is for another protocol; CONNECT is so in any case."""
        return self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"

    def _continue(self) -> None:
        """Lets a client send the body for which it waits, once it has the replies to the requests before."""
        if self._is_expecting and not self._is_ended and self._answered is None and not self._requests:
            self._is_expecting = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _complete(self, *, is_last: bool) -> None:
        """Takes the request that has arrived."""
        self._is_arriving, self._is_ended, self._arrival_deadline = False, is_last, math.inf
        method = self._parser.get_method().decode("latin-1")
        self._requests.append(
            HttpRequest(method, self._path, self._query, self._headers, self._body, self._peer, is_last)
        )
        self._answer_next()
        if len(self._requests) > _MAX_WAITING and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _answer_next(self) -> None:
        """Has requests answered as long as replies come at once and the client reads them."""
        while self._requests and self._answered is None and not self._is_writing_paused:
            self._answered = self._requests.popleft()
            self._application.answer(self._answered, self._respond)
        if self._is_reading_paused and len(self._requests) <= _MAX_WAITING:
            self._is_reading_paused = False
            if self._arrival_deadline < math.inf:
                self._arrival_deadline = time.monotonic() + ARRIVAL_SECONDS
            self._transport.resume_reading()
        self._continue()
        if self._refusal is not None and self._is_ended and self._answered is None and not self._requests:
            reply, self._refusal = self._refusal, None
            self._application.count(reply.status)
            self._write(reply, is_last=True)

    def _respond(self, reply: HttpReply) -> None:
        """Sends the reply to the request that is being answered."""
        request, self._answered = self._answered, None
        assert request is not None, "a request gets one reply"
        if self._transport.is_closing():
            return
        is_last = request.is_last or self._application.closing
        if is_last and not request.is_last:
            self._is_cut = True
        self._write(reply, is_last=is_last, has_body=request.method != "HEAD")
        if self._is_expecting or self._requests or self._is_reading_paused or self._refusal is not None:
            asyncio.get_running_loop().call_soon(self._answer_next)

    def _write(self, reply: HttpReply, *, is_last: bool, has_body: bool = True) -> None:
        fields = "".join([f"{name}: {value}\r\n" for name, value in reply.headers.items()])
        length = "" if reply.status in _WITHOUT_LENGTH else f"content-length: {len(reply.body)}\r\n"
        close = "connection: close\r\n" if is_last else ""
        date = _date(int(time.time()))
        head = f"{_STATUS_LINES[reply.status]}{date}{fields}{length}{close}\r\n".encode()
        self._transport.write(head + reply.body if has_body else head)
        self._idle_deadline = time.monotonic() + (LINGER_SECONDS if is_last else IDLE_SECONDS)
        if is_last:
            self._end()

    def _end(self) -> None:
        """Closes the connection, after some seconds if the client may still send.

        If it was closed at once, the kernel would reset it because of the data that nobody reads, and the client could
        lose the reply.
        """
        self._is_ended, self._refusal = True, None
        self._requests.clear()
        if self._is_cut and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._close(READING_SECONDS)

    def _refuse(self, reply: HttpReply) -> None:
        """Sends the reply after those to the requests before it, and then ends the connection."""
        self._is_arriving, self._is_ended, self._is_cut = False, True, True
        self._arrival_deadline, self._refusal = math.inf, reply
        self._answer_next()

    def _stop(self, reply: HttpReply) -> NoReturn:
        """Stops the parser, so that `reply` is sent."""
        self._refusal = reply
        raise _ParserStopped


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    """Returns the header Date of replies in this second."""
    return f"date: {formatdate(second, usegmt=True)}\r\n"


def _split(target: bytes) -> tuple[str, bytes]:
    """Returns the path and the query of a request's target, which can be an absolute URL or `*`."""
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/"):
        try:
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            return target.decode("latin-1"), b""  # a path that is not served
        path, query = url.path or b"/", url.query or b""
    text = path.decode("latin-1")
    return unquote(text) if "%" in text else text, query
