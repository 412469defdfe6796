"""Fast PNG encoder for small images: for 28 × 28 pixels Pillow spends most of its time on unneeded features."""

import functools
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPE = {1: 0, 3: 2, 4: 6}  # channels → grayscale, RGB, RGBA
_MAX_STORED = 1024  # bytes; with the headers they fit into one Ethernet packet (1,460 bytes) uncompressed
_UINT32, _BLOCK_LENGTHS = struct.Struct(">I"), struct.Struct("<HH")
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))


def encode(image: NDArray[np.uint8]) -> bytes:
    """Encode an image, uint8 [H, W, C] with C = 1 (grayscale), 3 (RGB) or 4 (RGBA), as a PNG file."""
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # a row begins with its filter type; 0: no filter
    rows[:, 1:] = image.reshape(height, -1)
    pixels = rows.tobytes()
    if len(pixels) <= _MAX_STORED:
        data = _store(pixels)
    else:
        # run-length matching alone gives fewer bytes on black backgrounds than full matching, in two thirds of the time
        deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
        data = deflate.compress(pixels) + deflate.flush()
    return b"".join((_head(width, height, channels), _chunk(b"IDAT", data), _END))


@functools.lru_cache(maxsize=64)
def _head(width: int, height: int, channels: int) -> bytes:
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPE[channels], 0, 0, 0))


def _store(data: bytes) -> bytes:
    """A zlib stream of one uncompressed block (RFC 1951, section 3.2.4); takes a twentieth of the time of deflate."""
    size = len(data)
    return b"".join((b"\x78\x01\x01", _BLOCK_LENGTHS.pack(size, size ^ 0xFFFF), data, _UINT32.pack(zlib.adler32(data))))


def _chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return b"".join((_UINT32.pack(len(data)), body, _UINT32.pack(zlib.crc32(body))))
