"""IDX files, the format of MNIST; decompressed gzip files are cached.

A cache file is called NAME-SOURCE-CONTENT, with the SHA-256 of the gzip file (16 digits) and of its own bytes. It is
used only if both match. Any of these files may be deleted.
"""

import gzip
import hashlib
import logging
import zlib
from pathlib import Path

import numpy as np

from ganctl.files import read_file
from ganctl.training.config.cache_dir import cache_dir, read_cached, write_cached
from ganctl.training.errors import DataError

_log = logging.getLogger(__name__)


def read_idx(
    path: Path, *, dimensions: int, shape: tuple[int, ...] | None = None, sha256: dict[str, str] | None = None
) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, plain or gzip, as uint8 with `dimensions` axes.

    The format, from Y. LeCun's MNIST page: two zero bytes, the type 0x08, the number of axes, the length of each axis
    as a big-endian 32-bit integer, then the bytes.

    Args:
        path: the file, `NAME` or `NAME.gz`.
        dimensions: expected number of axes.
        shape: expected shape; None accepts any.
        sha256: NAME → expected digest of the uncompressed file.

    Raises:
        DataError: the file is truncated, has another format, shape or digest.
    """
    raw = _read_gzip(path) if path.suffix == ".gz" else read_file(path)
    header = 4 + 4 * dimensions
    expected_magic = bytes((0, 0, 8, dimensions))
    if raw[:4] != expected_magic:
        raise DataError(
            f"{path}: begins with {raw[:4].hex() or 'nothing'}, expected {expected_magic.hex()} (an IDX file of"
            f" unsigned bytes with {dimensions} axes). Replace the file"
        )
    lengths = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    expected_bytes = header + int(np.prod(lengths, dtype=np.int64))
    if len(raw) != expected_bytes:
        raise DataError(
            f"{path}: found {len(raw)} bytes, expected {expected_bytes} for {lengths}; the file is truncated or"
            " damaged. Replace it"
        )
    if shape is not None and lengths != shape:
        found_shape, expected_shape = (" × ".join(map(str, axes)) for axes in (lengths, shape))
        raise DataError(
            f"{path}: found {found_shape} bytes, expected {expected_shape}: this name reads only the original files"
            " of the data set. Write other images as files (such as PNG) into one folder for each class, and give"
            " data.name=folder"
        )
    name = path.name.removesuffix(".gz")
    if sha256 and name in sha256 and (digest := hashlib.sha256(raw).hexdigest()) != sha256[name]:
        raise DataError(
            f"{path}: found the SHA-256 {digest}, expected {sha256[name]} of the original. Replace the file"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(lengths).copy()


def _read_gzip(path: Path) -> bytes:
    """Returns the content of a gzip file, from the cache if it has been decompressed before."""
    packed = read_file(path)
    cache = cache_dir()
    prefix = cache / "datasets" / f"{path.stem}-{hashlib.sha256(packed).hexdigest()[:16]}" if cache else None
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
