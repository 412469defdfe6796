"""Raw HTTP over sockets: sends bytes that no HTTP library sends, and parses the reply."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.waiting import PATIENCE


class Broken(Exception):
    """What came is no complete reply."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A connection to a server: `send` bytes, `read` replies."""

    def __init__(self, url: str, patience: float = PATIENCE, buffer: int = 0) -> None:
        """patience: seconds for a reply; what must come comes within the default on any machine.
        buffer: bytes that are taken from the network before somebody reads them; 0 leaves it to the system."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(patience)
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
        """The next reply; None where the server has closed the connection instead.

        Raises TimeoutError where nothing comes, and Broken where the reply ends too early, or is none.
        """
        try:
            line = self._file.readline(65_536)
        except ConnectionError:
            return None
        if not line:
            return None
        if line.startswith(b"HTTP/1.1 100 "):  # the answer to an `Expect`; the reply comes after it
            self._headers()
            return self.read()
        try:
            version, status, _ = line.decode("ascii").split(" ", 2)
            assert version in ("HTTP/1.1", "HTTP/1.0")
            headers = self._headers()
            body = self._file.read(int(headers["content-length"]))
        except (ConnectionError, ValueError, KeyError, AssertionError) as error:
            raise Broken(f"{line[:80]!r}: {error!r}") from error
        if len(body) < int(headers["content-length"]):
            raise Broken(f"{len(body)} bytes of {headers['content-length']}")
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
    """A request as it goes over the wire, Content-Length included (or what `length` says in its place)."""
    lines = [b"%s %s HTTP/1.1" % (_bytes(verb), _bytes(target)), b"Host: x"]
    lines += [b"%s: %s" % (_bytes(name), _bytes(value)) for name, value in headers]
    if length != "":
        lines.append(b"Content-Length: %s" % _bytes(str(len(body)) if length is None else length))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
