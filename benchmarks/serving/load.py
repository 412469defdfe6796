"""Load generator: one thread with many connections, each of which sends its next request after each reply.

It shares the machine with the server under test, so it does little per request: it sends prepared bytes and reads only
the status and the length of the reply.
"""

import itertools
import math
import re
import select
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RECEIVE_BYTES = 1 << 18
_EXTRA_SECONDS = 60.0


class Result(NamedTuple):
    """The replies of a measurement.

    rate: replies with status 200 per second.
    p50, p99: latencies in seconds that 50 and 99 % of the replies did not exceed.
    accepted: replies with status 200.
    refused: other replies, and connections that closed without one.
    """

    rate: float
    p50: float
    p99: float
    accepted: int
    refused: int


def get(path: str, accept: str = "image/png") -> bytes:
    """Returns the bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n".encode()


def post(path: str, body: bytes, accept: str = "image/png") -> bytes:
    """Returns the bytes of a POST request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Connection:
    __slots__ = ("bytes_left", "received", "sent_at", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received, self.bytes_left, self.sent_at = b"", 0, 0.0


def load(
    address: tuple[str, int],
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    warm_up: float,
    min_replies: int,
) -> Result:
    """Sends `requests` in turn over a number of connections and measures the replies after the warm-up.

    Args:
        address: host and port of the server.
        requests: the bytes of each request.
        connections: the number of connections.
        seconds: the length of the measurement; up to a minute longer until `min_replies` requests have got status 200.
        warm_up: seconds of load before the measurement.
        min_replies: the minimum number of replies with status 200.
    """
    poll = select.epoll()
    open_: dict[int, _Connection] = {}
    next_request = itertools.cycle(requests)

    def connect() -> None:
        connection = _Connection(address)
        open_[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
        send(connection)

    def send(connection: _Connection) -> None:
        connection.received, connection.bytes_left = b"", -1
        connection.sent_at = clock()
        connection.socket.sendall(next(next_request))

    clock = time.perf_counter
    latencies: list[float] = []  # seconds
    refused = 0
    measure_from = clock() + warm_up
    deadline = measure_from + seconds
    extended_deadline = deadline + _EXTRA_SECONDS
    for _ in range(connections):
        connect()
    while clock() < deadline or (len(latencies) < min_replies and clock() < extended_deadline):
        for number, _ in poll.poll(0.1):
            connection = open_[number]
            try:
                data = connection.socket.recv(_RECEIVE_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                refused += connection.bytes_left != 0 and clock() > measure_from
                poll.unregister(number)
                del open_[number]
                connection.socket.close()
                connect()
                continue
            if connection.bytes_left < 0:
                connection.received = data = connection.received + data
                head = data.find(b"\r\n\r\n")
                if head < 0:
                    continue
                length = _LENGTH.search(data, 0, head)
                connection.bytes_left = head + 4 + int(length[1] if length else 0) - len(data)
            else:
                connection.bytes_left -= len(data)
            if connection.bytes_left > 0:
                continue
            now = clock()
            if now >= measure_from:
                if connection.received[9:12] == b"200":
                    latencies.append(now - connection.sent_at)
                else:
                    refused += 1
            if b"\r\nconnection: close" in connection.received:
                connection.bytes_left = 0  # no failure when the server closes the connection
            else:
                send(connection)
    seconds = clock() - measure_from
    for connection in open_.values():
        connection.socket.close()
    poll.close()
    latencies.sort()
    p50, p99 = (latencies[int(share * len(latencies))] if latencies else math.nan for share in (0.5, 0.99))
    return Result(len(latencies) / seconds, p50, p99, len(latencies), refused)
