"""The lock of a run's folder: one process trains in it at a time.

It is a flock on the file `.lock`. The kernel releases it when the process ends, however it ends, and on NFS Linux holds
it for all machines. The file stays; its text names the process that locked it last.
"""

import errno
import fcntl
import json
import logging
import os
import platform
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path

from ganctl.files import naming
from ganctl.training.errors import FolderInUse

NAME = ".lock"
_HELD_BY_ANOTHER = {errno.EWOULDBLOCK, errno.EACCES}
_PASSING = 1.0  # seconds that a process which only looks may take
_LOOK_EVERY = 0.05  # seconds
_log = logging.getLogger(__name__)


class RunLock:
    """Locks a run's folder for this process; `look` before anything is read from it, `take` before it is written to."""

    def __init__(self, *, patience: float = _PASSING) -> None:
        """`patience`: seconds to wait for a process that is about to end."""
        self._patience = patience
        self._file: int | None = None
        self._seen: tuple[Path, str] | None = None
        _all.add(self)

    def look(self, folder: Path) -> None:
        """Makes sure that no process trains in the folder, which may be absent, and notes which one was the last.

        Raises:
            FolderInUse: one does.
        """
        try:
            file = os.open(folder / NAME, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            self._seen = folder.resolve(), ""
            return
        try:
            self._lock(file, fcntl.LOCK_SH, folder)
            self._seen = folder.resolve(), _read(file)
        finally:
            os.close(file)

    def take(self, folder: Path) -> None:
        """Locks the folder until `release`, or this process's end.

        Raises:
            FolderInUse: another process trains in it, or has done so since `look`.
        """
        assert self._file is None, "it is held already"
        with naming(folder / NAME):
            file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._lock(file, fcntl.LOCK_EX, folder)
                if self._seen is not None and self._seen[0] == folder.resolve() and self._seen[1] != _read(file):
                    raise FolderInUse(
                        f"--run-dir {folder}: {_owner(_read(file))} trained there after this command had read it; give"
                        " the command again"
                    )
                owner = {
                    "host": platform.node(),
                    "pid": os.getpid(),
                    "since": datetime.now(UTC).isoformat(timespec="milliseconds"),
                }
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(owner).encode() + b"\n", 0)
            except BaseException:
                os.close(file)
                raise
        self._file, self._seen = file, None

    def release(self) -> None:
        """Lets other processes train in the folder; harmless where the lock is not held."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _lock(self, file: int, kind: int, folder: Path) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return fcntl.flock(file, kind | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _HELD_BY_ANOTHER:  # ENOLCK, ENOTSUP, EINVAL, …: not on this file system
                    _log.warning(
                        "%s: this file system cannot lock (%s); make sure yourself that one process trains there",
                        folder, error.strerror,
                    )  # fmt: skip
                    return None
            if time.monotonic() > deadline:
                raise FolderInUse(
                    f"--run-dir {folder}: {_owner(_read(file))} trains in it; wait for its end, or name another folder"
                )
            time.sleep(_LOOK_EVERY)


def _read(file: int) -> str:
    return os.pread(file, 4096, 0).decode("utf-8", "replace")


def _owner(text: str) -> str:
    """A lock file's text as words."""
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (ValueError, KeyError, TypeError):  # it has locked, and not written yet
        return "another process"


def _leave_to_parent() -> None:
    """Closes the locks' files in a forked child: a loader's process that outlives its trainer must not hold them."""
    for lock in _all:
        lock.release()


_all: "weakref.WeakSet[RunLock]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_leave_to_parent)
