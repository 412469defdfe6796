"""IDX files, the format of MNIST; decompressed gzip files are cached.

A cache file is called NAME-SOURCE-CONTENT, with the SHA-256 of the gzip file (16 digits) and of its own bytes. It is
used only if both match. Any of these files may be deleted.
"""

import gzip
import hashlib
import logging
import math
import zlib
from pathlib import Path

import numpy as np

from ganctl.files import read_file
from ganctl.training.config.cache_dir import cache_path, read_cached, write_cached
from ganctl.training.errors import DataError

_log = logging.getLogger(__name__)


def read_idx(path: Path, shape: tuple[int, ...], sha256: str | None = None) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, plain or gzip, as uint8 of the given shape.

    The format, from Y. LeCun's MNIST page: two zero bytes, the type 0x08, the number of axes, the length of each axis
    as a big-endian 32-bit integer, then the bytes.

    Args:
        path: the file, `NAME` or `NAME.gz`.
        shape: expected shape.
        sha256: expected digest of the uncompressed file; None accepts any.

    Raises:
        DataError: the file is truncated, has another format, shape or digest.
    """
    raw = _read_gzip(path) if path.suffix == ".gz" else read_file(path)
    header = 4 + 4 * len(shape)
    expected_magic = bytes((0, 0, 8, len(shape)))
    if raw[:4] != expected_magic:
        raise DataError(
            f"{path}: begins with {raw[:4].hex() or 'nothing'}, expected {expected_magic.hex()} (an IDX file of"
            f" unsigned bytes with {len(shape)} axes). Replace the file"
        )
    found = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4))
    if found != shape:
        found_shape, expected_shape = (" × ".join(map(str, axes)) for axes in (found, shape))
        raise DataError(
            f"{path}: found {found_shape} bytes, expected {expected_shape}: this name reads only the original files"
            " of the data set. Write other images as files (such as PNG) into one folder for each class, and give"
            " data.name=folder"
        )
    expected_bytes = header + math.prod(shape)
    if len(raw) != expected_bytes:
        raise DataError(
            f"{path}: found {len(raw)} bytes, expected {expected_bytes} for {shape}; the file is truncated or"
            " damaged. Replace it"
        )
    if sha256 is not None and (digest := hashlib.sha256(raw).hexdigest()) != sha256:
        raise DataError(f"{path}: found the SHA-256 {digest}, expected {sha256} of the original. Replace the file")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy()


def _read_gzip(path: Path) -> bytes:
    """Returns the content of a gzip file, from the cache if it has been decompressed before."""
    packed = read_file(path)
    prefix = cache_path("datasets", f"{path.stem}-{hashlib.sha256(packed).hexdigest()[:16]}")
    if (cached := read_cached(prefix, _read_intact_copy)) is not None:
        return cached
    try:
        raw = gzip.decompress(packed)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file ({error}). Download it again") from error
    copy = prefix.with_name(f"{prefix.name}-{hashlib.sha256(raw).hexdigest()}") if prefix else None
    if (reason := write_cached(copy, raw)) is not None:
        _log.info("%s; %s is decompressed in each run", reason, path)
    return raw


def _read_intact_copy(prefix: Path) -> bytes | None:
    """Reads the file PREFIX-CONTENT whose digest matches its name; None if there is none."""
    for copy in prefix.parent.glob(f"{prefix.name}-*"):
        raw = copy.read_bytes()
        if copy.name == f"{prefix.name}-{hashlib.sha256(raw).hexdigest()}":
            return raw
    return None
