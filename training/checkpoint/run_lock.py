"""Locks a run folder, so that only one process at a time trains in it.

The lock is a flock on the file `.lock`. The kernel releases it when the process ends; on NFS, Linux enforces it across
machines. The file is never deleted; its content names the last process that locked it.
"""

import fcntl
import json
import logging
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

from ganctl.files import add_path_to_errors
from ganctl.training.errors import FolderInUse

NAME = ".lock"
_POLL_INTERVAL = 0.05  # seconds
_log = logging.getLogger(__name__)


class RunLock:
    """Locks one run folder for this process: call `check` before reading it, `acquire` before writing to it."""

    def __init__(self, *, timeout: float = 1.0) -> None:
        """Creates a lock that is not held.

        Args:
            timeout: seconds to wait for another process to release the lock; longer than its `check` takes.
        """
        self._timeout = timeout
        self._file: int | None = None
        self._checked: str | None = None  # the content of the lock file at `check`
        os.register_at_fork(after_in_child=self.release)  # a data loading process may outlive its trainer

    def check(self, folder: Path) -> None:
        """Checks that no process trains in the folder, which may be absent, and records its last owner.

        Raises:
            FolderInUse: another process trains in it.
        """
        try:
            file = os.open(folder / NAME, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            self._checked = ""
            return
        try:
            self._lock(file, fcntl.LOCK_SH, folder)
            self._checked = _read(file)
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
                content = _read(file)
                if self._checked not in (None, content):
                    raise FolderInUse(
                        f"--run-dir {folder}: {_owner(content)} trained in it after this command had read it. Try again"
                    )
                since = datetime.now(UTC).isoformat(timespec="milliseconds")
                owner = {"host": platform.node(), "pid": os.getpid(), "since": since}
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
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):  # another process holds the lock
                if time.monotonic() > deadline:
                    owner = _owner(_read(file))
                    raise FolderInUse(f"--run-dir {folder}: {owner} trains in it. Name another folder") from None
            except OSError as error:
                _log.warning("%s: this file system has no locks (%s). Train only once in it", folder, error.strerror)
                return
            time.sleep(_POLL_INTERVAL)


def _read(file: int) -> str:
    return os.pread(file, 4096, 0).decode("utf-8", "replace")


def _owner(text: str) -> str:
    """Describes the process that the text of a lock file names."""
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (ValueError, KeyError, TypeError):  # the process has locked the file and not written it yet
        return "another process"
