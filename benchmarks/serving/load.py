"""A load generator: many connections from one thread, each asking again as soon as it has been answered.

It shares the machine with the server that it measures, so it does little for each request: ready-made bytes go out, of
the reply only the status and the length are looked at.
"""

import re
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RECEIVE = 1 << 18
_PATIENCE = 60.0  # seconds


@dataclass
class Result:
    """What came back within `seconds`, the warm-up left out."""

    seconds: float
    latencies: list[float]  # seconds, of the requests that were answered 200
    statuses: Counter[int]
    failures: int  # connections that broke without an answer

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """The latency in seconds that `share` of the good answers did not exceed."""
        assert self.latencies, "nothing was answered"
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]

    def summary(self) -> dict[str, float]:
        """The rate, and latencies in milliseconds."""
        percentiles = {f"p{percent}_ms": 1e3 * self.percentile(percent / 100) for percent in (50, 99)}
        return {"requests_per_second": self.rate, **percentiles}


def get(path: str, accept: str = "image/png") -> bytes:
    """A request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n".encode()


def post(path: str, body: bytes, accept: str = "image/png") -> bytes:
    """A request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Connection:
    __slots__ = ("began", "missing", "received", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received, self.missing, self.began = b"", 0, 0.0


def load(
    address: tuple[str, int],
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    warm_up: float = 1.0,
    least: int = 1,
) -> Result:
    """Asks for `requests` in turn over so many connections, and counts what is answered after the warm-up.

    Where fewer than `least` have been answered 200 within `seconds`, it goes on until they are, for a minute at most:
    a rate or a latency of none says nothing.
    """
    poll = select.epoll()
    open_: dict[int, _Connection] = {}
    turn, many = 0, len(requests)

    def connect() -> None:
        connection = _Connection(address)
        open_[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
        ask(connection)

    def ask(connection: _Connection) -> None:
        nonlocal turn
        turn = (turn + 1) % many
        connection.received, connection.missing = b"", -1
        connection.began = clock()
        connection.socket.sendall(requests[turn])

    clock = time.perf_counter
    result = Result(seconds, [], Counter(), 0)
    counts_from = clock() + warm_up
    ends = counts_from + seconds
    gives_up = ends + _PATIENCE
    for _ in range(connections):
        connect()
    while clock() < ends or (len(result.latencies) < least and clock() < gives_up):
        for number, _ in poll.poll(0.1):
            connection = open_[number]
            try:
                data = connection.socket.recv(_RECEIVE)
            except ConnectionError:
                data = b""
            if not data:
                result.failures += connection.missing != 0 and clock() > counts_from
                poll.unregister(number)
                del open_[number]
                connection.socket.close()
                connect()
                continue
            if connection.missing < 0:
                connection.received = data = connection.received + data
                head = data.find(b"\r\n\r\n")
                if head < 0:
                    continue
                found = _LENGTH.search(data, 0, head)
                connection.missing = head + 4 + int(found[1] if found else 0) - len(data)
            else:
                connection.missing -= len(data)
            if connection.missing > 0:
                continue
            now = clock()
            if now >= counts_from:
                status = int(connection.received[9:12])
                result.statuses[status] += 1
                if status == 200:
                    result.latencies.append(now - connection.began)
            if b"\r\nconnection: close" in connection.received:
                connection.missing = 0  # the server closes it; the next poll sees it
            else:
                ask(connection)
    result.seconds = clock() - counts_from
    for connection in open_.values():
        connection.socket.close()
    poll.close()
    return result
