"""Values in the binary protocol between TorchServe's front end and a worker."""

import struct


def number(value: int) -> bytes:
    """A 32-bit integer; −1 ends a list."""
    return struct.pack("!i", value)


def sized(data: bytes) -> bytes:
    """Bytes after their length."""
    return number(len(data)) + data
