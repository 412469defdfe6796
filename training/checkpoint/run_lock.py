"""Lock of a run folder: one process at a time trains in it.

It is a flock on the file `.lock`. The kernel releases it when the process ends; on NFS, Linux enforces it across
machines. The file is never deleted; its content names the last process that locked it.
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

from ganctl.files import add_path_to_errors
from ganctl.training.errors import FolderInUse

NAME = ".lock"
_LOCKED = {errno.EWOULDBLOCK, errno.EACCES}
_TIMEOUT = 1.0  # seconds; longer than the short lock of another process's `check`
_POLL_INTERVAL = 0.05  # seconds
_log = logging.getLogger(__name__)


class RunLock:
    """Locks a run folder for this process: call `check` before reading the folder, `acquire` before writing to it."""

    def __init__(self, *, timeout: float = _TIMEOUT) -> None:
        """`timeout`: seconds to wait for another process to release the lock."""
        self._timeout = timeout
        self._file: int | None = None
        self._checked: tuple[Path, str] | None = None  # the folder, and the content of its lock file
        _all.add(self)

    def check(self, folder: Path) -> None:
        """Checks that no process trains in the folder, which may be absent, and records its last owner.

        Raises:
            FolderInUse: another process trains in it.
        """
        try:
            file = os.open(folder / NAME, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            self._checked = folder.resolve(), ""
            return
        try:
            self._lock(file, fcntl.LOCK_SH, folder)
            self._checked = folder.resolve(), _read(file)
        finally:
            os.close(file)

    def acquire(self, folder: Path) -> None:
        """Locks the folder until `release` or the end of this process.

        Raises:
            FolderInUse: another process trains in it, or has trained in it since `check`.
        """
        assert self._file is None, "the lock is held already"
        with add_path_to_errors(folder / NAME):
            file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._lock(file, fcntl.LOCK_EX, folder)
                if (
                    self._checked is not None
                    and self._checked[0] == folder.resolve()
                    and self._checked[1] != _read(file)
                ):
                    raise FolderInUse(
                        f"--run-dir {folder}: {_owner(_read(file))} trained in it after this command had read it. Run"
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
        self._file, self._checked = file, None

    def release(self) -> None:
        """Releases the lock; does nothing if it is not held."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _lock(self, file: int, kind: int, folder: Path) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return fcntl.flock(file, kind | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _LOCKED:  # ENOLCK, ENOTSUP, EINVAL, …: the file system has no locks
                    _log.warning(
                        "%s: this file system has no locks (%s). Make sure that only one process trains in the folder",
                        folder, error.strerror,
                    )  # fmt: skip
                    return None
            if time.monotonic() > deadline:
                raise FolderInUse(
                    f"--run-dir {folder}: {_owner(_read(file))} trains in it. Wait for its end, or name another folder"
                )
            time.sleep(_POLL_INTERVAL)


def _read(file: int) -> str:
    return os.pread(file, 4096, 0).decode("utf-8", "replace")


def _owner(text: str) -> str:
    """Describes the owner that the text of a lock file names."""
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (ValueError, KeyError, TypeError):  # the owner holds the lock and has not written the file yet
        return "another process"


def _release_in_child() -> None:
    """Closes the lock files in a forked child: a loader process that outlives its trainer must not hold them."""
    for lock in _all:
        lock.release()


_all: "weakref.WeakSet[RunLock]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_release_in_child)
