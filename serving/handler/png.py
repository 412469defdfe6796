"""A lean PNG writer: most of Pillow's time for a digit of 28 × 28 goes into things that a digit does not need."""

import functools
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPE = {1: 0, 3: 2}  # channels → grey, RGB
_PACKET = 1024  # bytes that go out with a reply's headers as one packet (of 1,460 bytes on Ethernet)
_NUMBER, _LENGTHS = struct.Struct(">I"), struct.Struct("<HH")
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))


def encode(image: NDArray[np.uint8]) -> bytes:
    """A uint8 image [H, W, C], C 1 (grey) or 3 (RGB) → a PNG file."""
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = image.reshape(height, -1)
    pixels = rows.tobytes()
    if len(pixels) <= _PACKET:
        data = _stored(pixels)  # fits a packet anyway
    else:
        # black between the strokes is what there is to compress: looking for runs alone gives fewer bytes than for
        # matches at any distance, in two thirds of the time
        deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
        data = deflate.compress(pixels) + deflate.flush()
    return b"".join((_head(width, height, channels), _chunk(b"IDAT", data), _END))


@functools.lru_cache(maxsize=64)
def _head(width: int, height: int, channels: int) -> bytes:
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPE[channels], 0, 0, 0))


def _stored(data: bytes) -> bytes:
    """A zlib stream of one block that is not compressed (RFC 1951, section 3.2.4), in a twentieth of the time."""
    size = len(data)
    return b"".join((b"\x78\x01\x01", _LENGTHS.pack(size, size ^ 0xFFFF), data, _NUMBER.pack(zlib.adler32(data))))


def _chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return b"".join((_NUMBER.pack(len(data)), body, _NUMBER.pack(zlib.crc32(body))))
