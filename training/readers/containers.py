"""Containers of image files: a folder, a ZIP archive or a tar archive, read in place.

An archive is listed and read once, in order. A compressed tar archive allows no random access, so that it is unpacked
into one temporary file, which ends with the process.
"""

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Protocol

from ganctl.files import read_file
from ganctl.training.errors import DataError

_DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
    ValueError,
    struct.error,
    tokenize.TokenError,  # of NumPy, for the header of an array
)
_MAX_UNPACKED = 1 << 30  # bytes that any archive may hold …
_MAX_RATIO = 200  # … and, beyond them, unpacked bytes for a packed one; more is an archive bomb
_DECOMPRESSORS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {  # by signature
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_PART = 1 << 20  # bytes unpacked at a time
_MAX_ERROR = 200  # characters; zipfile's may hold a part of the file
_DRIVE = re.compile(r"[A-Za-z]:")
_TAR = (".tar", ".tgz", ".tbz2", ".txz")


class FileStamp(NamedTuple):
    """Size in bytes and modification time in nanoseconds of a file."""

    size: int
    mtime_ns: int


Entry = FileStamp | str | None  # a file; the reason why an entry cannot be opened; a folder


class Container(Protocol):
    """A folder or an archive. Paths begin with the path of the container."""

    path: Path
    kind: str  # for messages

    def scan(self, folder: Path) -> Iterator[tuple[Path, Entry]]:
        """Yields the entries of a folder, sorted by path.

        Raises:
            OSError: the folder cannot be listed.
        """

    def real_path(self, path: Path) -> str:
        """Returns the path without links."""

    def read(self, path: Path) -> bytes:
        """Returns the content of a file; any process may call it.

        Raises:
            OSError, ValueError: it cannot be read.
        """

    def open(self, path: Path) -> IO[bytes]:
        """Opens a file for reading."""


class FolderContainer:
    """A folder on the disk; links are followed."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path

    def scan(self, folder: Path) -> Iterator[tuple[Path, Entry]]:
        """Yields the entries of a folder; see `Container`."""
        for path in sorted(folder.iterdir(), key=lambda path: path.name):  # comparing whole paths takes seconds
            yield path, _entry(path)

    def real_path(self, path: Path) -> str:
        """Returns the path without links."""
        return os.path.realpath(path)

    def read(self, path: Path) -> bytes:
        """Returns the content of a file."""
        return read_file(path)

    def open(self, path: Path) -> IO[bytes]:
        """Opens a file for reading."""
        return path.open("rb")


class FileContainer(FolderContainer):
    """A folder of which a single file counts."""

    kind = "file"

    def __init__(self, file: Path) -> None:
        super().__init__(file.parent)
        self._file = file

    def scan(self, folder: Path) -> Iterator[tuple[Path, Entry]]:
        """Yields the file."""
        yield self._file, _entry(self._file)


class ZipContainer:
    """A ZIP archive."""

    kind = "ZIP archive"

    def __init__(self, path: Path) -> None:
        """Lists the members.

        Raises:
            DataError: the archive is damaged, encrypted or a bomb, or has a member with an unsafe name or a link.
        """
        self.path, self._members = path, _Members(path)
        self._archives: dict[int, zipfile.ZipFile] = {}  # by process: a forked one must not share the file position
        with damages_as_data_errors(f"{path}: a damaged ZIP archive"):
            infos = self._archive().infolist()
        for info in infos:
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(_link_message(path, info.filename))
            if info.flag_bits & 1:
                raise DataError(f"{path}: found encrypted files, such as {info.filename}, expected none. Unpack it")
            self._members.add(info.filename, info, size=info.file_size, is_folder=info.filename.endswith("/"))
        self._members.check_size(path.stat().st_size)

    def scan(self, folder: Path) -> Iterator[tuple[Path, Entry]]:
        """Yields the entries of a folder; see `Container`."""
        return self._members.scan(folder)

    def real_path(self, path: Path) -> str:
        """Returns the path itself: an archive holds no links."""
        return str(path)

    def read(self, path: Path) -> bytes:
        """Returns the content of a file; see `Container`."""
        info = self._members.position(path)
        with damages_as_data_errors("damaged in the archive"), self._archive().open(info) as file:
            content: bytes = file.read(info.file_size)  # of a bomb with a wrong size, not more
            if len(content) < info.file_size:
                raise EOFError(f"found {len(content)} of {info.file_size} bytes")
        return content

    def open(self, path: Path) -> IO[bytes]:
        """Opens a file for reading."""
        return self._archive().open(self._members.position(path))

    def _archive(self) -> zipfile.ZipFile:
        process = os.getpid()
        if process not in self._archives:
            self._archives[process] = zipfile.ZipFile(self.path)
        return self._archives[process]


class TarContainer:
    """A tar archive, plain or compressed."""

    kind = "tar archive"

    def __init__(self, path: Path) -> None:
        """Lists the members; unpacks a compressed archive into a temporary file.

        Raises:
            DataError: the archive is damaged or a bomb, or has a member with an unsafe name or a link.
        """
        self.path, self._members = path, _Members(path)
        with damages_as_data_errors(f"{path}: a damaged tar archive"):
            self._file = _unpack(path)
            with tarfile.open(fileobj=self._file, mode="r:") as archive:
                for member in archive:
                    self._add(member)
                self._file.seek(archive.offset)  # tarfile ends at a damaged header without an error
                if self._file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.TarError(f"found neither a file nor the archive's end at byte {archive.offset:,}")

    def _add(self, member: tarfile.TarInfo) -> None:
        if member.issym() or member.islnk():
            raise DataError(_link_message(self.path, member.name))
        if member.issparse():
            raise DataError(f"{self.path}: found the sparse file {member.name!r}. Pack it without --sparse")
        if member.isreg() or member.isdir():  # no devices and the like
            position = (member.offset_data, member.size)
            self._members.add(member.name, position, size=member.size, is_folder=member.isdir())

    def scan(self, folder: Path) -> Iterator[tuple[Path, Entry]]:
        """Yields the entries of a folder; see `Container`."""
        return self._members.scan(folder)

    def real_path(self, path: Path) -> str:
        """Returns the path itself: an archive holds no links."""
        return str(path)

    def read(self, path: Path) -> bytes:
        """Returns the content of a file; see `Container`."""
        start, size = self._members.position(path)
        return os.pread(self._file.fileno(), size, start)

    def open(self, path: Path) -> IO[bytes]:
        """Opens a file for reading."""
        return io.BytesIO(self.read(path))


class _Members:
    """Tree of an archive's members, with the position of each file in the archive."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._folders: dict[Path, dict[Path, Entry]] = {archive: {}}
        self._positions: dict[Path, Any] = {}
        self.total = 0  # unpacked bytes

    def add(self, name: str, position: Any, *, size: int, is_folder: bool) -> None:
        """Adds a file or folder.

        Raises:
            DataError: the name leads out of the archive.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or parts[:1] in (("/",), ("//",)) or (parts and _DRIVE.match(parts[0])):
            raise DataError(
                f"{self._archive}: found the member {name!r}, expected names below the archive's root. An unpacker"
                " would write outside its folder: do not use this archive"
            )
        path = self._archive.joinpath(*parts)
        if not parts and not is_folder:
            raise DataError(f"{self._archive}: a damaged archive (found a file without a name). Replace it")
        if is_folder:
            self._add_folder(path)
            return
        self._add_folder(path.parent)
        self._folders[path.parent][path] = FileStamp(size, 0)
        self._positions[path] = position
        self.total += size

    def _add_folder(self, path: Path) -> None:
        if path not in self._folders:
            self._folders[path] = {}
            self._add_folder(path.parent)
            self._folders[path.parent][path] = None

    def check_size(self, packed: int) -> None:
        """Raises a DataError if the archive is a bomb."""
        check_unpacked_size(self._archive, self.total, packed)

    def scan(self, folder: Path) -> Iterator[tuple[Path, Entry]]:
        yield from sorted(self._folders[folder].items())

    def position(self, path: Path) -> Any:
        return self._positions[path]


def _unpack(path: Path) -> IO[bytes]:
    """Opens an archive; unpacks a compressed one into a temporary file.

    Raises:
        DataError: the archive is a bomb.
        EOFError, OSError, …: it is damaged.
    """
    with path.open("rb") as file:
        head = file.read(8)
    decompress = next((each for signature, each in _DECOMPRESSORS.items() if head.startswith(signature)), None)
    if decompress is None:
        return path.open("rb")
    unpacked: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the container lives
    packed = path.stat().st_size
    with decompress(path) as stream:
        while part := stream.read(_PART):
            check_unpacked_size(path, unpacked.tell() + len(part), packed)
            unpacked.write(part)
    unpacked.seek(0)
    return unpacked


@contextmanager
def damages_as_data_errors(finding: str) -> Iterator[None]:
    """Turns the errors of zipfile, tarfile, gzip, NumPy and the like about damaged content into a DataError.

    Args:
        finding: begin of the message, to which the error is added.
    """
    try:
        yield
    except DataError:
        raise
    except (*_DAMAGES, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # not about the content; EINVAL: a damaged offset
        raise DataError(f"{finding} ({str(error)[:_MAX_ERROR]}). Replace it") from error


def check_unpacked_size(path: Path, unpacked: int, packed: int) -> None:
    """Checks that an archive is no bomb.

    Raises:
        DataError: it holds too many bytes for its size.
    """
    if unpacked > max(_MAX_UNPACKED, _MAX_RATIO * packed):
        raise DataError(
            f"{path}: found {unpacked:,} bytes or more in an archive of {packed:,} bytes, expected at most {_MAX_RATIO}"
            " times its size. Do not use this archive"
        )


def open_container(path: Path) -> Container:
    """Opens a folder, an archive, or the folder of a file of another kind.

    Raises:
        DataError: the archive cannot be read.
    """
    if path.is_dir():
        return FolderContainer(path)
    with path.open("rb") as file:
        head = file.read(512)
    if (path.suffix.lower() != ".npz" and head.startswith(b"PK\x03\x04")) or head.startswith(b"PK\x05\x06"):
        return ZipContainer(path)
    if (
        head[257:262] == b"ustar"
        or (head.startswith(tuple(_DECOMPRESSORS)) and path.stem.endswith(".tar"))
        or path.suffix in _TAR
    ):
        return TarContainer(path)
    return FileContainer(path)


def _entry(path: Path) -> Entry:
    """Describes an entry of a folder on the disk."""
    try:
        status = path.stat()
    except OSError as error:
        kind = "a broken link" if path.is_symlink() else "a path that cannot be accessed"
        return f"{kind} ({error.strerror})"
    if stat.S_ISDIR(status.st_mode):
        return None
    if stat.S_ISREG(status.st_mode):
        return FileStamp(status.st_size, status.st_mtime_ns)
    return "neither a file nor a folder"


def _link_message(archive: Path, name: str) -> str:
    return f"{archive}: found the link {name!r}, expected files and folders. Pack it without links (tar --dereference)"
