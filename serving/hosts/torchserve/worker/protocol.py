"""Binary protocol between TorchServe's front end and a worker, over a Unix socket.

As in TorchServe 0.12, `ModelRequestEncoder.java` and `ModelResponseDecoder.java`: integers are four bytes, big-endian;
texts and byte strings follow their length; lists end with −1.
"""

import functools
import struct
from collections.abc import Iterable

from ganctl.serving.hosts.worker.messages import PredictReply, PredictRequest, add_input

_LOAD, _PREDICT = b"L", b"I"
_END = b"\xff\xff\xff\xff"  # −1
_INT = struct.Struct("!i")
_read_int, _pack_int = _INT.unpack_from, _INT.pack


class Incomplete(Exception):
    """The rest of the message has not arrived yet."""


def read_message(data: bytes) -> list[PredictRequest] | None:
    """Decodes one whole message.

    Returns:
        the requests of a batch, or None for the command to load the model. The fields of that command are skipped: the
        server's folder `state` names the version to load.

    Raises:
        Incomplete: the end of the message is missing.
        ValueError: the bytes are no message, or bytes follow the message.
    """
    command = data[:1]
    if command not in (_LOAD, _PREDICT):
        raise ValueError(f"message: found the command {command!r}, expected {_LOAD!r} or {_PREDICT!r}")
    # A body may hold the end marker, too, but data that does not end with it is never a whole batch.
    if command == _PREDICT and not data.endswith(_END):
        raise Incomplete
    try:
        requests, end = (None, _end_of_load(data)) if command == _LOAD else _read_batch(data)
    except struct.error as error:
        raise Incomplete from error
    if end > len(data):
        raise Incomplete
    if end < len(data):
        raise ValueError(f"message: found {len(data) - end} bytes after the end, expected none before the reply")
    return requests


def _end_of_load(data: bytes) -> int:
    _name, at = _read_bytes(data, 1)
    _folder, at = _read_bytes(data, at)
    _handler, at = _read_bytes(data, at + 4)  # after the batch size
    _envelope, at = _read_bytes(data, at + 4)  # after the GPU's number
    return at + 1  # the last byte is a flag for Pillow's size limit


def _read_batch(data: bytes) -> tuple[list[PredictRequest], int]:
    requests: list[PredictRequest] = []
    at = 1
    while _read_int(data, at)[0] >= 0:
        identity, at = _read_bytes(data, at)
        headers: dict[str, str] = {}
        while _read_int(data, at)[0] >= 0:
            name, at = _read_bytes(data, at)
            value, at = _read_bytes(data, at)
            headers[_decode_name(name)] = value.decode("utf-8", "replace")
        at += 4
        inputs: dict[str, bytes | list[bytes]] = {}
        while _read_int(data, at)[0] >= 0:
            encoded, at = _read_bytes(data, at)
            _media_type, at = _read_bytes(data, at)
            value, at = _read_bytes(data, at)
            field = encoded.decode("utf-8", "replace")
            add_input(inputs, field, value)
        at += 4
        requests.append(PredictRequest(identity, headers, inputs))
    return requests, at + 4


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + 4
    end = start + _read_int(data, at)[0]
    return data[start:end], end


@functools.lru_cache(maxsize=256)  # few header names occur
def _decode_name(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def write_batch(replies: Iterable[PredictReply]) -> bytes:
    """Encodes the replies to a batch."""
    parts = [_pack_int(200), _pack_bytes(b"")]
    for identity, status, phrase, headers, body in replies:
        # The field for the media type stays empty: the headers hold it.
        parts += (_pack_int(len(identity)), identity, _pack_int(0), _pack_int(status))
        parts += (_pack_text(phrase), _pack_int(len(headers)))
        for name, value in headers.items():
            encoded = value.encode()
            parts += (_pack_text(name), _pack_int(len(encoded)), encoded)
        parts += (_pack_int(len(body)), body)
    parts.append(_END)
    return b"".join(parts)


@functools.lru_cache(maxsize=256)
def _pack_text(text: str) -> bytes:
    return _pack_bytes(text.encode())


def _pack_bytes(data: bytes) -> bytes:
    return _pack_int(len(data)) + data


# The reply to the command to load the model: code 200 and a message.
LOADED = _pack_int(200) + _pack_bytes(b"loaded") + _END
