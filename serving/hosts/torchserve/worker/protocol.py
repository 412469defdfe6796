"""What TorchServe's front end and a worker say to each other, over a Unix socket.

As in TorchServe 0.12, `ModelRequestEncoder.java` and `ModelResponseDecoder.java`: integers of four bytes, big-endian;
texts and bytes with their length before them; lists with −1 after them.
"""

import functools
import struct
from collections.abc import Iterable
from typing import NamedTuple

_LOAD, _PREDICT = b"L", b"I"
_END = b"\xff\xff\xff\xff"  # −1
_INT = struct.Struct("!i")
_read, _packed = _INT.unpack_from, _INT.pack


class Incomplete(Exception):
    """The message goes on in bytes that have not arrived yet."""


class Load(NamedTuple):
    """The order to load a model: the folder of its unpacked archive, and the file in it that has `handle`."""

    folder: str
    handler: str


class Incoming(NamedTuple):
    """A request. `inputs` has the bytes of its body, as `body`, and of each field of its query or form; a list of them
    where a field is given several times."""

    identity: bytes
    headers: dict[str, str]
    inputs: dict[str, bytes | list[bytes]]


class Outgoing(NamedTuple):
    """The reply to the request of that identity."""

    identity: bytes
    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes


def read_message(data: bytes) -> Load | list[Incoming]:
    """Reads the message that `data` is. Raises Incomplete where its end is missing, ValueError where it is none."""
    command = data[:1]
    if command not in (_LOAD, _PREDICT):
        raise ValueError(f"expected the command {_LOAD!r} or {_PREDICT!r}, found {command!r}")
    # A body may hold the bytes of an end, too; but where a batch ends otherwise, there is nothing to try yet.
    if command == _PREDICT and not data.endswith(_END):
        raise Incomplete
    try:
        message, end = _read_load(data) if command == _LOAD else _read_batch(data)
    except struct.error as error:
        raise Incomplete from error
    if end > len(data):
        raise Incomplete
    if end < len(data):
        raise ValueError(f"found {len(data) - end} bytes after the end of a message, though it is not answered yet")
    return message


def _read_load(data: bytes) -> tuple[Load, int]:
    _name, at = _field(data, 1)
    folder, at = _field(data, at)
    handler, at = _field(data, at + 4)  # after the batch's size
    _envelope, at = _field(data, at + 4)  # after the GPU's number
    return Load(folder.decode(), handler.decode()), at + 1  # a flag about Pillow's limit ends it


def _read_batch(data: bytes) -> tuple[list[Incoming], int]:
    requests: list[Incoming] = []
    at = 1
    while _read(data, at)[0] >= 0:
        identity, at = _field(data, at)
        headers: dict[str, str] = {}
        while _read(data, at)[0] >= 0:
            name, at = _field(data, at)
            value, at = _field(data, at)
            headers[_text(name)] = value.decode("utf-8", "replace")
        at += 4
        inputs: dict[str, bytes | list[bytes]] = {}
        while _read(data, at)[0] >= 0:
            encoded, at = _field(data, at)
            _media, at = _field(data, at)
            value, at = _field(data, at)
            field = encoded.decode("utf-8", "replace")
            before = inputs.get(field)
            if before is None:
                inputs[field] = value
            elif isinstance(before, list):
                before.append(value)
            else:
                inputs[field] = [before, value]
        at += 4
        requests.append(Incoming(identity, headers, inputs))
    return requests, at + 4


def _field(data: bytes, at: int) -> tuple[bytes, int]:
    begin = at + 4
    end = begin + _read(data, at)[0]
    return data[begin:end], end


@functools.lru_cache(maxsize=256)  # the names of headers are few
def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def loaded(code: int, message: str) -> bytes:
    """The answer to an order to load: 200, or why not."""
    return _packed(code) + _sized(message.encode()) + _END


def write_batch(replies: Iterable[Outgoing]) -> bytes:
    """The answer to a batch."""
    parts = [_packed(200), _sized(b"")]
    for identity, status, phrase, headers, body in replies:
        # the media type's own place stays empty: it is among the headers
        parts += (_packed(len(identity)), identity, _packed(0), _packed(status), _name(phrase), _packed(len(headers)))
        for name, value in headers.items():
            encoded = value.encode()
            parts += (_name(name), _packed(len(encoded)), encoded)
        parts += (_packed(len(body)), body)
    parts.append(_END)
    return b"".join(parts)


@functools.lru_cache(maxsize=256)
def _name(text: str) -> bytes:
    return _sized(text.encode())


def _sized(data: bytes) -> bytes:
    return _packed(len(data)) + data
