"""The worker understands the front end's messages, wherever they are cut, and answers so that it is understood."""

import io
import struct

import pytest

from ganctl.serving.hosts.torchserve.worker.protocol import (
    Incoming,
    Incomplete,
    Load,
    Outgoing,
    read_message,
    write_batch,
    write_loaded,
)


def number(value: int) -> bytes:
    return struct.pack("!i", value)


def sized(data: bytes) -> bytes:
    return number(len(data)) + data


def request(identity: bytes, headers: dict[bytes, bytes], inputs: dict[bytes, bytes]) -> bytes:
    """As `ModelRequestEncoder.java` writes it."""
    head = b"".join(sized(name) + sized(value) for name, value in headers.items())
    body = b"".join(sized(name) + sized(b"application/json") + sized(value) for name, value in inputs.items())
    return sized(identity) + head + number(-1) + body + number(-1)


BATCH = (
    b"I"
    + request(b"one", {b"Accept": b"image/png", b"x": "ü".encode()}, {})
    + request(b"two", {}, {b"body": b'{"digits": 7}' + number(-1) * 3, b"seed": b""})
    + number(-1)
)
LOAD = (
    b"L" + sized(b"name") + sized(b"/models/digits") + number(64) + sized(b"entry.py") + number(-1) + sized(b"") + b"\1"
)


def test_a_batch_is_read_with_headers_and_fields() -> None:
    assert read_message(BATCH) == [
        Incoming(b"one", {"Accept": "image/png", "x": "ü"}, {}),
        Incoming(b"two", {}, {"body": b'{"digits": 7}' + b"\xff" * 12, "seed": b""}),
    ]


def test_an_order_to_load_is_read() -> None:
    assert read_message(LOAD) == Load("/models/digits", "entry.py")


@pytest.mark.parametrize("message", [BATCH, LOAD], ids=["batch", "load"])
def test_a_message_cut_anywhere_is_incomplete(message: bytes) -> None:
    """Also behind bytes in a body that look like an end."""
    for end in range(1, len(message)):
        with pytest.raises(Incomplete):
            read_message(message[:end])


@pytest.mark.parametrize("message", [b"X" + BATCH[1:], BATCH + BATCH])
def test_what_is_no_message_is_told(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected b'L'|after the end"):
        read_message(message)


def test_headers_that_are_no_text_do_not_end_the_worker() -> None:
    read = read_message(b"I" + request(b"1", {b"a\xff": b"\xfe"}, {b"\xff": b"1"}) + number(-1))
    assert read == [Incoming(b"1", {"a�": "�"}, {"�": b"1"})]


def test_a_reply_is_laid_out_as_the_front_end_reads_it() -> None:
    """As `ModelResponseDecoder.java` reads it."""
    reply = Outgoing(b"one", 400, "Bad Request", {"content-type": "text/x", "é": "ü"}, b"body")
    stream = io.BytesIO(write_batch([reply]))

    def read_number() -> int:
        return int(struct.unpack("!i", stream.read(4))[0])

    def read_sized() -> bytes:
        return stream.read(read_number())

    assert (read_number(), read_sized()) == (200, b"")
    assert (read_sized(), read_sized(), read_number(), read_sized()) == (b"one", b"", 400, b"Bad Request")
    assert read_number() == 2
    assert [read_sized().decode() for _ in range(4)] == ["content-type", "text/x", "é", "ü"]
    assert read_sized() == b"body"
    assert read_number() == -1
    assert stream.read() == b""


def test_a_loaded_model_is_reported() -> None:
    assert write_loaded(200, "loaded") == number(200) + sized(b"loaded") + number(-1)
