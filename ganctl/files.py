"""Writes files and folders atomically: a temporary name in the same folder, a flush to the disk, a rename.

Every OSError of this module names the target: a failed write, flush or close has no file name, and a temporary name
would not help the user.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\.ganctl-\d+-[0-9a-f]{8}(\..*)?")
# fsync fails with these on file systems without it: network file systems and FUSE for folders, some for any file
_FSYNC_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EISDIR}  # a writable folder may not be readable


@contextmanager
def add_path_to_errors(path: Path) -> Iterator[None]:
    """Adds `path` to an OSError without a file name, such as one of write, flush and close.

    Connection errors are left unchanged, since `path` did not fail; an error without a number as well, since it would
    lose its text.
    """
    try:
        yield
    except OSError as error:
        connection = isinstance(error, ConnectionError | socket.gaierror)
        if error.filename is None and error.errno is not None and not connection:
            error.filename = str(path)
        raise


def read_file(path: Path) -> bytes:
    """Reads a file.

    Raises:
        OSError: it cannot be opened or read; the error names `path`.
    """
    with add_path_to_errors(path):
        return path.read_bytes()


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal.

    Raises:
        OSError: it cannot be opened or read; the error names `path`.
    """
    with add_path_to_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, data: bytes | bytearray | str | Iterator[memoryview]) -> None:
    """Writes a file atomically; text as UTF-8. A link's target is replaced, and a device is written directly.

    An iterator gives the content in parts.

    Raises:
        OSError: it cannot be written. The error names `path`, which is unchanged.
    """
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    parts: Iterable[bytes | bytearray | memoryview] = [content] if isinstance(content, bytes | bytearray) else content
    target = Path(os.path.realpath(path))
    with _name_target(path), _create_parents(target):
        if _is_device(path):
            with path.open("wb") as device:  # a rename would replace the device by a file
                device.writelines(parts)
        else:
            with _replacement(target) as temporary:
                _write(temporary, parts)


def link_file(target: Path, path: Path) -> None:
    """Makes `path` a hard link to `target`, or a copy where the file system has no links.

    Raises:
        OSError: it cannot be made. The error names `path`, which is unchanged.
    """
    with _name_target(path), _replacement(path) as temporary:
        try:
            os.link(target, temporary)
        except OSError:  # a real error, such as a full disk, fails the copy as well
            _write(temporary, [target.read_bytes()])


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder that replaces `path` at the end, and is deleted after any exception.

    The previous content of `path` stays until the new folder has its name; then it is deleted.

    Raises:
        OSError: it cannot be written; the error names the file below `path`.
    """
    target = Path(os.path.realpath(path))
    temporary, previous = _temporary(target), _temporary(target)
    with _name_target(path, temporary), _create_parents(target):
        try:
            temporary.mkdir()
            yield temporary
            _flush_folder(temporary)
            try:
                if target.is_dir():
                    target.rename(previous)
                temporary.rename(target)
            except BaseException:  # including signals
                if previous.exists() and not target.exists():
                    previous.rename(target)
                raise
            _flush_folder(target.parent)
        finally:
            for leftover in (temporary, previous):
                _delete(leftover)


def is_temporary(name: str) -> bool:
    """Returns whether a file name is a temporary one of this module, which a killed process may leave."""
    return _TEMPORARY.fullmatch(name) is not None


def _temporary(target: Path) -> Path:
    # short, since the target's name may have the maximum length; with its suffix, from which writers take the format
    return target.with_name(f".ganctl-{os.getpid()}-{secrets.token_hex(4)}{target.suffix[:16]}")


@contextmanager
def _replacement(target: Path) -> Iterator[Path]:
    """Yields a temporary name for a file that replaces `target` at the end, and is deleted after any exception."""
    temporary = _temporary(target)
    try:
        yield temporary
        temporary.replace(target)
        _flush_folder(target.parent)
    finally:
        with suppress(OSError):  # keep the first error
            temporary.unlink(missing_ok=True)  # still there after a rename between two links to one file


def _write(path: Path, parts: Iterable[bytes | bytearray | memoryview]) -> None:
    """Writes a new file and flushes it to the disk."""
    with path.open("xb") as file:
        file.writelines(parts)
        file.flush()
        _flush(file.fileno())


def _flush(descriptor: int) -> None:
    """Calls fsync where the file system supports it; raises real errors, such as EIO."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FSYNC_UNSUPPORTED:
            raise


def _flush_folder(folder: Path) -> None:
    """Flushes renames in a folder to the disk, where the file system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_ACCESS | _FSYNC_UNSUPPORTED:
            return
        raise
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)


def _is_device(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR)
    return False


@contextmanager
def _name_target(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Makes an OSError name `path`, or the file below it instead of the one in the temporary folder."""
    try:
        yield
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
        if temporary is not None and named is not None and named.is_relative_to(temporary):
            error.filename = str(path / named.relative_to(temporary))
        elif temporary is None or named is None or named.parent == temporary.parent:
            error.filename = str(path)
        del error.filename2  # of a rename
        raise


@contextmanager
def _create_parents(path: Path) -> Iterator[None]:
    """Creates the parent folders of `path`; after an exception, deletes those that it created."""
    created = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in created:
            with suppress(OSError):  # missing, or used by another process
                folder.rmdir()
        raise


def _delete(folder: Path) -> None:
    """Deletes a folder if it exists; tries again once after a signal."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
