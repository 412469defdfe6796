"""Reads a failed server's logs: finds dead workers, their traceback and errors of the operating system."""

import errno
import itertools
import os
import shutil
import time
from pathlib import Path

_START = "[PID]"  # start of the first line of a worker
_TRACEBACK = "Traceback"
_POLL_SECONDS, _NO_TRACEBACK_SECONDS = 0.1, 1.0
_DEATHS = ("Backend worker process died", "backend worker process died", "Failed to load model")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE)
_MIN_FREE_BYTES = 1 << 16


class Logs:
    """The logs in a folder: `server.log` of the front end, `workers.log`, and `java.log` with Java's own output."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def worker_died(self) -> bool:
        """Returns whether a worker died or failed to load its model."""
        return any(death in self._text("workers") + self._text("server") for death in _DEATHS)

    def wait_for_traceback(self, seconds: float = 10.0) -> None:
        """Waits until a worker's traceback is complete, for at most `seconds`; stops early if none appears.

        TorchServe copies a worker's output line by line, which takes longer on a busy machine.
        """
        started = time.monotonic()
        before: list[str] = []
        while (waited := time.monotonic() - started) < seconds:
            traceback = self._traceback()
            if not traceback and waited > _NO_TRACEBACK_SECONDS:
                return
            # Complete once the last line names the exception: that line is not indented.
            if traceback and traceback == before and not traceback[-1].startswith((" ", _TRACEBACK)):
                return
            before = traceback
            time.sleep(_POLL_SECONDS)

    def system_error(self) -> OSError | None:
        """Returns the error of the operating system that kept Java from starting, or None."""
        java = self._text("java")
        if os.strerror(errno.EMFILE) in java:
            return OSError(errno.EMFILE, os.strerror(errno.EMFILE), "TorchServe")
        number = next((each for each in _DISK_ERRORS if f"IOException: {os.strerror(each)}" in java), None)
        if number is None and shutil.disk_usage(self._folder).free < _MIN_FREE_BYTES:
            number = errno.ENOSPC
        return None if number is None else OSError(number, os.strerror(number), str(self._folder))

    def message(self) -> str:
        """The part of the logs that belongs in an error message: a worker's traceback, else each log's last lines."""
        if traceback := self._traceback():
            return "\nThe worker's traceback:\n" + "\n".join(traceback[:60])
        tails = {name: self._text(name).splitlines()[-15:] for name in ("server", "workers", "java")}
        return "".join(f"\nThe last lines of {name}.log:\n" + "\n".join(tail) for name, tail in tails.items() if tail)

    def _traceback(self) -> list[str]:
        """The lines of the first traceback in `workers.log`, up to the first line of a restarted worker."""
        lines = [line.partition(" - ") for line in self._text("workers").splitlines()]
        for index, (head, _, message) in enumerate(lines):
            if message.startswith(_TRACEBACK):
                thread = head.split(" ", 3)[-1]
                messages = [message for head, _, message in lines[index:] if head.endswith(thread)]
                return list(itertools.takewhile(lambda message: not message.startswith(_START), messages))
        return []

    def _text(self, name: str) -> str:
        path = self._folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
