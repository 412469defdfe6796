"""The private folder of a server in TMPDIR, under a name that Java and Unix sockets can take."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ganctl.serving.errors import ServerError

_SOCKET_PATH = 107  # bytes of a Unix socket's path
_LONGEST_SOCKET = Path("tmp") / ".ts.sock.90000"
# Settings files read anything else differently: Java's properties are Latin-1 with `\` for escapes, log4j replaces `%`
# and `$`, and a URI needs quoting.
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
_OTHER_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


@contextlib.contextmanager
def plain_name(folder: Path) -> Iterator[Path]:
    """A name of the folder that is of ASCII letters and short: its path, or its descriptor in /proc.

    Raises:
        ServerError: there is none.
    """
    fits = len(os.fsencode(folder / _LONGEST_SOCKET)) <= _SOCKET_PATH
    if fits and _PLAIN.fullmatch(str(folder)):
        yield folder
        return
    try:
        os.fsencode(folder).decode("utf-8")
    except UnicodeDecodeError as error:  # Java resolves the other name, and cannot spell what it finds
        raise ServerError(
            f"the temporary folder {folder.parent}: found bytes that are not UTF-8, expected a path that Java can open."
            " Set TMPDIR to another folder, such as /tmp."
        ) from error
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        name = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        if not name.exists():
            raise ServerError(
                f"the temporary folder {folder.parent}: found a path that is not plain ASCII, or too long for the"
                f" workers' sockets ({_SOCKET_PATH} bytes in all), and no /proc to give it another name. Set TMPDIR to"
                " a short, plain path, such as /tmp."
            )
        yield name
    finally:
        os.close(descriptor)


def loading_place(folder: Path) -> Path:
    """A folder that native libraries can be loaded from: `folder`, or another where that is mounted noexec.

    Raises:
        ServerError: there is none.
    """
    for place in (folder, *map(Path, _OTHER_PLACES)):
        if os.access(place, os.W_OK | os.X_OK) and not os.statvfs(place).f_flag & os.ST_NOEXEC:
            return place
    raise ServerError(
        f"the temporary folder {folder}: its file system is mounted noexec, so that TorchServe cannot load its native"
        f" library from there, and none of {', '.join(_OTHER_PLACES)} serves instead. Set TMPDIR to a folder on a file"
        " system without noexec."
    )


class PrivateFolder:
    """A new folder that only this user may enter, with the subfolders of a server.

    path: the folder.
    alias: the same folder by a plain name.
    natives: the folder that TorchServe's native libraries are unpacked into and loaded from; outside of `path` where
        TMPDIR is mounted noexec.
    """

    def __init__(self) -> None:
        """Raises ServerError where TMPDIR can serve no TorchServe."""
        with contextlib.ExitStack() as stack:
            # resolved: workers tell resolved paths
            self.path = Path(tempfile.mkdtemp(prefix="ganctl-")).resolve()
            stack.callback(shutil.rmtree, self.path, ignore_errors=True)
            self.alias = stack.enter_context(plain_name(self.path))
            for name in ("store", "workflows", "logs", "metrics", "state", "tmp", "versions"):
                (self.path / name).mkdir()
            self.natives = self.alias / "tmp"
            if (place := loading_place(self.path.parent)) != self.path.parent:
                self.natives = Path(tempfile.mkdtemp(prefix="ganctl-", dir=place))
                stack.callback(shutil.rmtree, self.natives, ignore_errors=True)
            self._stack = stack.pop_all()

    def delete(self) -> None:
        """Deletes the folder; harmless when repeated."""
        self._stack.close()
