"""HTTP connections with time limits: uvicorn's protocol has none for a request's head, its body, and its reply."""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ganctl.serving.handler.problem import MEDIA_TYPE, problem

ARRIVAL_SECONDS = 20.0  # for a request's head to arrive, and again for its body
READING_SECONDS = 60.0  # for a client to read on, once its reply fills the buffers
MAX_TARGET, MAX_HEAD = 65_536, 32_768  # bytes of the path with the query, as many as of a body; and of all headers


class HttpProtocol(HttpToolsProtocol):
    """A connection that is closed if the client is too slow, or sends a head that is too large."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._arrival: asyncio.TimerHandle | None = None  # while a request arrives
        self._reading: asyncio.TimerHandle | None = None  # while the client does not read
        self._head_bytes = 0
        self._refusal = (HTTPStatus.BAD_REQUEST, "The request is not valid HTTP/1.1.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn: a TCP transport
        super().connection_made(transport)
        self._expect_arrival()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._arrival, self._reading):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._arrival is None:
            self._expect_arrival()
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_TARGET:
            self._refuse(
                HTTPStatus.REQUEST_URI_TOO_LONG, f"The path with its query is longer than {MAX_TARGET:,} bytes."
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD:
            detail = f"The headers are longer than {MAX_HEAD:,} bytes."
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._expect_arrival()  # of the body
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_arrival()
        super().on_message_complete()

    def pause_writing(self) -> None:
        self._reading = self.loop.call_later(READING_SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuses the request that is arriving, and closes the connection."""
        self._stop_arrival()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self.cycle.keep_alive = False  # the requests before this one are answered, and then the connection ends
            self.flow.pause_reading()
            return
        status, detail = self._refusal
        body = problem(status, detail)
        headers = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(STATUS_LINE[status] + headers.encode() + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Stays with HTTP/1.1. The parser takes what follows for another protocol, so the reply is the last one."""
        self.cycle.keep_alive = False

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._refusal = status, detail
        raise ValueError(detail)  # the parser stops, and `send_400_response` is called

    def _expect_arrival(self) -> None:
        self._stop_arrival()
        self._arrival = self.loop.call_later(ARRIVAL_SECONDS, self._time_out)

    def _stop_arrival(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _time_out(self) -> None:
        self._arrival = None
        self._refusal = HTTPStatus.REQUEST_TIMEOUT, f"The request did not arrive within {ARRIVAL_SECONDS:g} s."
        self.send_400_response("")
