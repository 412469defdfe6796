"""Raw HTTP over sockets: sends bytes that no HTTP library sends, and parses the reply."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.waiting import PATIENCE


class BrokenReply(Exception):
    """The server sent something else than a complete HTTP reply."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A connection to a server: `send` bytes, `read` replies."""

    def __init__(self, url: str, timeout: float = PATIENCE, buffer: int = 0) -> None:
        """Connects to the server of `url`.

        Args:
            timeout: seconds to wait for a reply; the default only limits a hang.
            buffer: bytes of the socket's receive buffer; 0 chooses the system's default.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((parts.hostname, parts.port or 80))
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> Reply | None:
        """Returns the next reply; None if the server closed the connection without one.

        Raises:
            TimeoutError: nothing arrived in time.
            BrokenReply: the reply is incomplete, or is not HTTP.
        """
        try:
            line = self._file.readline(65_536)
        except ConnectionError:
            return None
        if not line:
            return None
        if line.startswith(b"HTTP/1.1 100 "):  # the interim reply to `Expect`; the final reply follows
            self._headers()
            return self.read()
        try:
            version, status, _ = line.decode("ascii").split(" ", 2)
            assert version in ("HTTP/1.1", "HTTP/1.0")
            headers = self._headers()
            length = 0 if int(status) in (204, 304) else int(headers["content-length"])  # RFC 9110, section 6.4.1
            body = self._file.read(length)
        except (ConnectionError, ValueError, KeyError, AssertionError) as error:
            raise BrokenReply(f"{line[:80]!r}: {error!r}") from error
        if len(body) < length:
            raise BrokenReply(f"{len(body)} bytes of {length}")
        return Reply(int(status), headers, body)

    def _headers(self) -> dict[str, str]:
        headers = {}
        while (line := self._file.readline(65_536)) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return headers


def request(
    verb: str | bytes = "POST",
    target: str | bytes = "/predictions/digits",
    body: bytes = b"",
    headers: Sequence[tuple[str | bytes, str | bytes]] = (),
    *,
    length: str | bytes | None = None,
) -> bytes:
    """The bytes of a request; `length` replaces the value of Content-Length, and "" leaves that header out."""
    lines = [b"%s %s HTTP/1.1" % (_bytes(verb), _bytes(target)), b"Host: x"]
    lines += [b"%s: %s" % (_bytes(name), _bytes(value)) for name, value in headers]
    if length != "":
        lines.append(b"Content-Length: %s" % _bytes(str(len(body)) if length is None else length))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
