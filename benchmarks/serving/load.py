"""Load generator: one thread with many connections, each of which sends its next request after each reply.

It shares the machine with the server under test, so it does little per request: it sends prepared bytes and reads only
the status and the length of the reply.
"""

import itertools
import re
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RECEIVE_BYTES = 1 << 18
_EXTRA_SECONDS = 60.0


@dataclass
class Result:
    """Replies within `seconds`, without the warm-up."""

    seconds: float
    latencies: list[float]  # seconds, of replies with status 200
    statuses: Counter[int]
    failures: int  # connections that closed without a reply

    @property
    def rate(self) -> float:
        """Replies with status 200 per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Returns the latency in seconds that a `share` (0 … 1) of the replies with status 200 did not exceed."""
        assert self.latencies, "no reply with status 200"
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


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
    result = Result(seconds, [], Counter(), 0)
    measure_from = clock() + warm_up
    deadline = measure_from + seconds
    extended_deadline = deadline + _EXTRA_SECONDS
    for _ in range(connections):
        connect()
    while clock() < deadline or (len(result.latencies) < min_replies and clock() < extended_deadline):
        for number, _ in poll.poll(0.1):
            connection = open_[number]
            try:
                data = connection.socket.recv(_RECEIVE_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                result.failures += connection.bytes_left != 0 and clock() > measure_from
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
                status = int(connection.received[9:12])
                result.statuses[status] += 1
                if status == 200:
                    result.latencies.append(now - connection.sent_at)
            if b"\r\nconnection: close" in connection.received:
                connection.bytes_left = 0  # no failure when the server closes the connection
            else:
                send(connection)
    result.seconds = clock() - measure_from
    for connection in open_.values():
        connection.socket.close()
    poll.close()
    return result
