"""A server's private folder in TMPDIR, with a path that Java and Unix sockets accept."""

import contextlib
import functools
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ganctl.serving.errors import ServerError

_MAX_SOCKET_PATH = 107  # bytes of a Unix socket's path
_LONGEST_SOCKET = Path("tmp") / ".ts.sock.90000"
# Other characters are not read back as written: Java's properties are Latin-1 with `\` for escapes, log4j replaces `%`
# and `$`, and a URI needs quoting.
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
_FALLBACK_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@contextlib.contextmanager
def ascii_alias(folder: Path) -> Iterator[Path]:
    """Yields a short path of ASCII letters for the folder: its own path, or that of a file descriptor in /proc.

    Raises:
        ServerError: Java cannot open the folder by any path.
    """
    fits = len(os.fsencode(folder / _LONGEST_SOCKET)) <= _MAX_SOCKET_PATH
    if fits and _PLAIN.fullmatch(str(folder)):
        yield folder
        return
    try:
        os.fsencode(folder).decode("utf-8")
    except UnicodeDecodeError as error:  # Java resolves the alias and then cannot spell the path
        raise ServerError(
            f"the temporary folder {folder.parent}: found bytes that are not UTF-8. Set TMPDIR to another one."
        ) from error
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


def executable_folder(folder: Path) -> Path:
    """Returns `folder`, or another temporary folder if `folder` is mounted noexec; native libraries load from there.

    Raises:
        ServerError: every candidate is mounted noexec or not writable.
    """
    for candidate in (folder, *map(Path, _FALLBACK_FOLDERS)):
        if os.access(candidate, os.W_OK | os.X_OK) and not os.statvfs(candidate).f_flag & os.ST_NOEXEC:
            return candidate
    raise ServerError(
        f"the temporary folder {folder}: found a file system mounted noexec, and no better one among"
        f" {', '.join(_FALLBACK_FOLDERS)}. Set TMPDIR to a folder on a file system without noexec."
    )


class PrivateFolder(NamedTuple):
    """A folder that only this user may enter, with the subfolders of a server.

    path: the folder.
    alias: the same folder by a short ASCII path.
    native_libraries: the folder that TorchServe's native libraries are unpacked into and loaded from; outside `path` if
        TMPDIR is mounted noexec.
    """

    path: Path
    alias: Path
    native_libraries: Path


@contextlib.contextmanager
def private_folder() -> Iterator[PrivateFolder]:
    """Creates a private folder in TMPDIR and deletes it at the end. Raises ServerError if TMPDIR is not usable."""
    create = functools.partial(tempfile.TemporaryDirectory, prefix="ganctl-", ignore_cleanup_errors=True)
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(create())).resolve()  # workers report resolved paths
        alias = stack.enter_context(ascii_alias(path))
        for name in ("store", "workflows", "logs", "metrics", "state", "tmp", "versions"):
            (path / name).mkdir()
        native_libraries = alias / "tmp"
        if (parent := executable_folder(path.parent)) != path.parent:
            native_libraries = Path(stack.enter_context(create(dir=parent)))
        yield PrivateFolder(path, alias, native_libraries)
