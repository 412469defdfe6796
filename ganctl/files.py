"""Files whole or not at all: a write goes to a temporary name beside its target, is flushed to the disk, then renamed.

Every OSError that leaves this module names the target: a write, a flush or a close that fails has no file name of its
own, and a temporary name means nothing to a user.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\.ganctl-\d+-[0-9a-f]{8}(\..*)?")
# how file systems say that they cannot flush: network file systems and FUSE for folders, some for any file
_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EISDIR}  # a folder may be written to, yet not opened


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds `path` to an OSError that has no file name, as those of write, flush and close have none.

    Errors of connections stay as they are: `path` is not what failed. One without a number would lose its text.
    """
    try:
        yield
    except (ConnectionError, socket.gaierror):
        raise
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def read_file(path: Path) -> bytes:
    """A file's content.

    Raises:
        OSError: it cannot be read; the error names `path`, also where the file was opened and reading fails.
    """
    with naming(path):
        return path.read_bytes()


def write_file(path: Path, data: bytes | bytearray | str) -> None:
    """Writes a file whole or not at all; text as UTF-8. A link's target is written, and a device directly.

    Raises:
        OSError: it cannot be written, and `path` (named in the error) is as it was before.
    """
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    target = Path(os.path.realpath(path))
    with _telling(path), _parents(target):
        if _is_device(path):
            with path.open("wb") as device:  # a rename would put a file in its place
                device.write(content)
            return
        temporary = _temporary(target)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                _flush(file.fileno())
            temporary.replace(target)
        finally:
            with contextlib.suppress(OSError):  # the error that led here is the one to tell
                temporary.unlink(missing_ok=True)
        flush_folder(target.parent)


def link_file(target: Path, path: Path) -> None:
    """Makes `path` a second name of the file `target`: a hard link, or a copy where the file system has no links.

    Raises:
        OSError: it cannot be made, and `path` (named in the error) is as it was before.
    """
    temporary = _temporary(path)
    with _telling(path):
        try:
            os.link(target, temporary)
        except OSError:  # a real fault, such as a full disk, is the copy's too
            write_file(path, target.read_bytes())
            return
        try:
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)  # a rename between two links to one file does nothing
        flush_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty temporary folder that takes the place of `path` at the end, and is deleted after any exception.

    What was at `path` before is deleted once the new folder is in its place; until then it stays whole.

    Raises:
        OSError: it cannot be written; the error names the file below `path`.
    """
    target = Path(os.path.realpath(path))
    temporary, before = _temporary(target), _temporary(target)
    with _telling(path, temporary), _parents(target):
        try:
            temporary.mkdir()
            yield temporary
            flush_folder(temporary)
            try:
                if os.path.lexists(target):
                    target.rename(before)
                temporary.rename(target)
            except BaseException:  # a signal, too
                if os.path.lexists(before) and not os.path.lexists(target):
                    before.rename(target)
                raise
            flush_folder(target.parent)
        finally:
            for leftover in (temporary, before):
                _delete(leftover)


def flush_folder(folder: Path) -> None:
    """Makes renames in a folder last through a power cut, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_ACCESS | _CANNOT_FLUSH:
            return
        raise
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that this module gives; a killed process may leave such a file."""
    return _TEMPORARY.fullmatch(name) is not None


def _temporary(target: Path) -> Path:
    # short, since the target's name may be as long as names can be; with its suffix, which tells writers the format
    return target.with_name(f".ganctl-{os.getpid()}-{secrets.token_hex(4)}{target.suffix[:16]}")


def _flush(descriptor: int) -> None:
    """fsync, as far as the file system has it; a real error, such as EIO, is raised."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def _is_device(path: Path) -> bool:
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return False
    return kind not in (stat.S_IFREG, stat.S_IFDIR)


@contextmanager
def _telling(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Has an OSError name `path`, or a file below it where it names one in the temporary folder."""
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
def _parents(path: Path) -> Iterator[None]:
    """Makes the folders above `path`; after an exception those that were not there before go again."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # absent after all, or used by another process meanwhile
                folder.rmdir()
        raise


def _delete(path: Path) -> None:
    """Deletes a file or folder, if it is there; goes on once where a signal ends the first attempt."""
    try:
        _rmtree(path)
    except BaseException:
        _rmtree(path)
        raise


def _rmtree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
