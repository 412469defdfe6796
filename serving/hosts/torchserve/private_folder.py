"""A server's private folder in TMPDIR, with a path that Java and Unix sockets accept."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
        ServerError: there is no such path.
    """
    fits = len(os.fsencode(folder / _LONGEST_SOCKET)) <= _MAX_SOCKET_PATH
    if fits and _PLAIN.fullmatch(str(folder)):
        yield folder
        return
    try:
        os.fsencode(folder).decode("utf-8")
    except UnicodeDecodeError as error:  # Java resolves the alias and then cannot spell the path
        raise ServerError(
            f"the temporary folder {folder.parent}: found bytes that are not UTF-8, expected a path that Java can open."
            " Set TMPDIR to another folder, such as /tmp."
        ) from error
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        alias = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        if not alias.exists():
            raise ServerError(
                f"the temporary folder {folder.parent}: found a path that is not plain ASCII or too long for the"
                f" workers' sockets, and no /proc; expected a plain path, at most {_MAX_SOCKET_PATH} bytes with the"
                " socket's name. Set TMPDIR to a short, plain path, such as /tmp."
            )
        yield alias
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
        f"the temporary folder {folder}: found a file system mounted noexec, and no other folder"
        f" among {', '.join(_FALLBACK_FOLDERS)}; expected one"
        " that native libraries can be loaded from. Set TMPDIR to a folder on a file system without noexec."
    )


class PrivateFolder:
    """A new folder that only this user may enter, with the subfolders of a server.

    path: the folder.
    alias: the same folder by a short ASCII path.
    native_libraries: the folder that TorchServe's native libraries are unpacked into and loaded from; outside `path` if
        TMPDIR is mounted noexec.
    """

    def __init__(self) -> None:
        """Creates the folder. Raises ServerError if TMPDIR is not usable."""
        with contextlib.ExitStack() as stack:
            # Resolved, because workers report resolved paths.
            self.path = Path(tempfile.mkdtemp(prefix="ganctl-")).resolve()
            stack.callback(shutil.rmtree, self.path, ignore_errors=True)
            self.alias = stack.enter_context(ascii_alias(self.path))
            for name in ("store", "workflows", "logs", "metrics", "state", "tmp", "versions"):
                (self.path / name).mkdir()
            self.native_libraries = self.alias / "tmp"
            if (parent := executable_folder(self.path.parent)) != self.path.parent:
                self.native_libraries = Path(tempfile.mkdtemp(prefix="ganctl-", dir=parent))
                stack.callback(shutil.rmtree, self.native_libraries, ignore_errors=True)
            self._stack = stack.pop_all()

    def delete(self) -> None:
        """Deletes the folder; safe to call again."""
        self._stack.close()
