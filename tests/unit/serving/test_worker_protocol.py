"""The worker decodes the front end's messages, however they are split, and encodes replies for it."""

import io
import struct

import pytest

from ganctl.serving.hosts.torchserve.worker.protocol import LOADED, Incomplete, read_message, write_batch
from ganctl.serving.hosts.worker.messages import PredictReply, PredictRequest
from tests.unit.serving.wire import number, sized


def request(identity: bytes, headers: dict[bytes, bytes], inputs: dict[bytes, bytes]) -> bytes:
    """A request in the format that `ModelRequestEncoder.java` writes."""
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
        PredictRequest(b"one", {"Accept": "image/png", "x": "ü"}, {}),
        PredictRequest(b"two", {}, {"body": b'{"digits": 7}' + b"\xff" * 12, "seed": b""}),
    ]


def test_the_command_to_load_a_model_is_not_a_batch() -> None:
    assert read_message(LOAD) is None


@pytest.mark.parametrize("message", [BATCH, LOAD], ids=["batch", "load"])
def test_a_message_cut_anywhere_is_incomplete(message: bytes) -> None:
    """BATCH has bytes in a body that equal the end marker; a cut after them must not look complete."""
    for end in range(1, len(message)):
        with pytest.raises(Incomplete):
            read_message(message[:end])


@pytest.mark.parametrize(
    ("message", "found"), [(b"X" + BATCH[1:], "b'X'.*b'L'"), (BATCH + BATCH, f"{len(BATCH)} bytes")]
)
def test_messages_with_an_unknown_command_or_extra_bytes_are_errors(message: bytes, found: str) -> None:
    with pytest.raises(ValueError, match=f"message: .*{found}"):
        read_message(message)


def test_headers_that_are_not_utf8_are_decoded_with_replacement_characters() -> None:
    read = read_message(b"I" + request(b"1", {b"a\xff": b"\xfe"}, {b"\xff": b"1"}) + number(-1))
    assert read == [PredictRequest(b"1", {"a�": "�"}, {"�": b"1"})]


def test_a_batch_of_replies_has_the_format_that_the_front_end_reads() -> None:
    """See `ModelResponseDecoder.java`."""
    reply = PredictReply(b"one", 400, "Bad Request", {"content-type": "text/x", "é": "ü"}, b"body")
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


def test_the_reply_to_the_load_command_has_code_200() -> None:
    assert number(200) + sized(b"loaded") + number(-1) == LOADED
