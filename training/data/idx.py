"""IDX files, the format of MNIST. What is in gzip is decompressed once: the bytes are kept in the user's cache.

A kept file is called NAME-PACKED-CONTENT, by the digests of the packed file and of its own bytes: it is taken for the
very file that it came from, and only while it is whole. Any of them may be deleted.
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
    """Reads an IDX file of unsigned bytes, plain or in gzip, as uint8 with `dimensions` axes.

    The format is that of Y. LeCun's MNIST page: two zero bytes, the type 0x08, the number of axes, each axis's length
    as a big-endian 32-bit number, then the bytes.

    Args:
        path: the file, `NAME` or `NAME.gz`.
        dimensions: the number of axes it must have.
        shape: the lengths that its axes must have.
        sha256: known digests of uncompressed files by NAME.

    Raises:
        DataError: the file is truncated, is no such file, or has another shape or digest.
    """
    raw = _decompressed(path) if path.suffix == ".gz" else read_file(path)
    header = 4 + 4 * dimensions
    expected_magic = bytes((0, 0, 8, dimensions))
    if raw[:4] != expected_magic:
        raise DataError(
            f"{path}: begins with {raw[:4].hex() or 'nothing'}, expected {expected_magic.hex()} (an IDX file of"
            f" unsigned bytes with {dimensions} axes); this is another kind of file"
        )
    lengths = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    expected_bytes = header + int(np.prod(lengths, dtype=np.int64))
    if len(raw) != expected_bytes:
        raise DataError(
            f"{path}: {len(raw)} bytes, expected {expected_bytes} for {lengths}; the file is truncated or damaged"
        )
    if shape is not None and lengths != shape:
        found, expected = (" × ".join(map(str, axes)) for axes in (lengths, shape))
        raise DataError(
            f"{path}: {found} bytes, expected {expected}: only the data set's own files are read by its name. Write"
            " other images as files (such as PNG) into one folder for each class, and give data.name=folder"
        )
    name = path.name.removesuffix(".gz")
    if sha256 and name in sha256 and (found := hashlib.sha256(raw).hexdigest()) != sha256[name]:
        raise DataError(f"{path}: its SHA-256 is {found}, expected {sha256[name]}; this is not the original {name}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(lengths).copy()


def _decompressed(path: Path) -> bytes:
    """A gzip file's content, from the cache where it has been decompressed before."""
    packed = read_file(path)
    cache = cache_dir()
    kept = cache / "datasets" / f"{path.stem}-{hashlib.sha256(packed).hexdigest()[:16]}" if cache else None
    if (found := read_cached(kept, _intact_copy)) is not None:
        return found
    try:
        raw = gzip.decompress(packed)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    copy = kept.with_name(f"{kept.name}-{hashlib.sha256(raw).hexdigest()}") if kept else None
    if (reason := write_cached(copy, raw)) is not None:
        _log.info("%s; %s is decompressed each time", reason, path)
    return raw


def _intact_copy(prefix: Path) -> bytes | None:
    """The bytes of the file PREFIX-CONTENT that has the digest of its name; None where there is none."""
    for copy in prefix.parent.glob(f"{prefix.name}-*"):
        raw = copy.read_bytes()
        if copy.name == f"{prefix.name}-{hashlib.sha256(raw).hexdigest()}":
            return raw
    return None
