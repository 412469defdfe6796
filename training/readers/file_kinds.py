"""Recognizes files by their first bytes, for errors about a file where a folder of images is expected."""

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from PIL import Image

_SIGNATURES = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"PAR1", "a Parquet file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "an .npy file"),
    (b"SQLite format 3", "an SQLite database"),
)
# errors of zipfile and NumPy for damaged, encrypted or unusually compressed arrays
ARRAY_FILE_ERRORS = (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)
_MAX_NAMES = 8


def file_kind(path: Path, file: IO[bytes]) -> str:
    """Describes a file by its first bytes, such as "a ZIP archive"; for .npz with names, types and shapes of arrays.

    Args:
        path: its name.
        file: the file, opened at its beginning.

    Raises:
        OSError: the file cannot be read.
    """
    head = file.read(512)
    file.seek(0)
    if not head:
        return "an empty file"
    if path.suffix == ".npz":
        try:
            return f"an .npz file with {_describe_arrays(file)}"
        except ARRAY_FILE_ERRORS as error:
            return f"a damaged .npz file ({error})"
    if head[:3] == b"\0\0\x08" and 1 <= head[3] <= 4:
        shape = [int.from_bytes(head[4 + 4 * i : 8 + 4 * i], "big") for i in range(head[3])]
        return f"an IDX file of {' × '.join(map(str, shape))} bytes"
    if head[257:262] == b"ustar":
        return "a tar archive"
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    try:
        with Image.open(file) as image:
            return f"one image ({image.format})"
    except (Image.DecompressionBombError, ValueError, OSError):
        return "a file of another kind"


def conversion_hint(kind: str) -> str:
    """Returns an instruction for turning a file of this `file_kind` into a folder of images."""
    if kind.endswith("archive"):
        return "Unpack it and give the folder."
    if kind.startswith("one image"):
        return "Give the folder that holds the images."
    return "Write its images as files (such as PNG) into one folder, or one folder for each class."


def _describe_arrays(content: IO[bytes]) -> str:
    """Lists the arrays of an .npz file, "images uint8 (500, 28, 28), labels int64 (500,)", from their headers."""
    described = []
    with zipfile.ZipFile(content) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as file:
                    old = read_magic(file) == (1, 0)
                    shape, _, dtype = (read_array_header_1_0 if old else read_array_header_2_0)(file)
                described.append(f"{name.removesuffix('.npy')} {dtype} {shape}")
            else:
                described.append(f"{name}, which is not an array")
    return list_names(described) or "no arrays"


def list_names(names: Sequence[str]) -> str:
    """Joins names with commas; of many names the first ones and a count."""
    shown = ", ".join(names[:_MAX_NAMES])
    return f"{shown} and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else shown
