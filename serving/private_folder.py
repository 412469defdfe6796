"""The private folder of a server in TMPDIR, under a name that Java and Unix sockets can take."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from .errors import ServerError

_SOCKET_PATH = 107  # bytes of a Unix socket's path
_LONGEST_SOCKET = Path("tmp") / ".ts.sock.90000"
# Settings files read anything else differently: Java's properties are Latin-1 with `\` for escapes, log4j replaces `%`
# and `$`, a URI needs quoting, and sun.jnu.encoding depends on the locale.
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
_OTHER_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


class PrivateFolder:
    """A new folder that only this user may enter, with the subfolders of a server.

    path: the folder.
    alias: the same folder by a short name of ASCII letters: `path` itself, or its descriptor in /proc.
    natives: folder that TorchServe's native libraries are unpacked into and loaded from; outside `path` where TMPDIR
        is mounted noexec.
    """

    def __init__(self) -> None:
        """Raises ServerError where TMPDIR can serve no TorchServe."""
        # resolved, because workers report resolved paths
        self.path = Path(tempfile.mkdtemp(prefix="ganctl-")).resolve()
        self._descriptor: int | None = None
        self.alias = self.natives = self.path
        try:
            self.alias = self._find_alias()
            for name in ("store", "workflows", "logs", "metrics", "state", "tmp", "versions"):
                (self.path / name).mkdir()
            self.natives = self._find_natives()
        except BaseException:
            self.delete()
            raise

    def delete(self) -> None:
        """Deletes the folder; harmless when repeated."""
        if not self.natives.is_relative_to(self.path):
            shutil.rmtree(self.natives, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _find_alias(self) -> Path:
        try:
            os.fsencode(self.path).decode("utf-8")
        except UnicodeDecodeError as error:  # Java resolves the alias, and cannot spell what it finds
            raise ServerError(
                f"the temporary folder {tempfile.gettempdir()}: found bytes that are not UTF-8, expected a path that"
                " Java can open. Set TMPDIR to another folder, such as /tmp."
            ) from error
        fits = len(os.fsencode(self.path / _LONGEST_SOCKET)) <= _SOCKET_PATH
        if fits and _PLAIN.fullmatch(str(self.path)):
            return self.path
        self._descriptor = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        alias = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")
        if not alias.exists():
            raise ServerError(
                f"the temporary folder {tempfile.gettempdir()}: found other characters than ASCII letters, or more than"
                f" {_SOCKET_PATH} bytes with the name of a socket, and no /proc to give it another name. Set TMPDIR to"
                " a plain, short path, such as /tmp."
            )
        return alias

    def _find_natives(self) -> Path:
        place = loading_place(self.path)
        if place is None:
            raise ServerError(f"the temporary folder {NOEXEC_ADVICE.format(tempfile.gettempdir())}")
        if place == self.path:
            return self.alias / "tmp"
        return Path(tempfile.mkdtemp(prefix="ganctl-", dir=place))


NOEXEC_ADVICE = (
    "{} is on a file system mounted noexec, from which TorchServe cannot load its native library, and none of "
    f"{', '.join(_OTHER_PLACES)} can be used instead. Set TMPDIR to a folder on a file system without noexec."
)


def loading_place(folder: Path) -> Path | None:
    """The folder to load native libraries from: `folder`, or another place where that one is mounted noexec.

    Returns None where there is no such place.
    """
    for place in (folder, *map(Path, _OTHER_PLACES)):
        if os.access(place, os.W_OK | os.X_OK) and not os.statvfs(place).f_flag & os.ST_NOEXEC:
            return place
    return None
