"""What the logs of a server tell of a failure."""

import errno
import os
import shutil
import time
from pathlib import Path

_START = "[PID]"  # a worker's first words
_TRACEBACK = "Traceback"
_LOOK_EVERY, _WITHOUT_TRACEBACK = 0.1, 1.0  # seconds
_DEATHS = ("Backend worker process died", "backend worker process died", "Failed to load model")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE)
_LEAST_ROOM = 1 << 16  # bytes


class Logs:
    """The logs in a folder: `server.log` of the front end, `workers.log`, and `java.log` of what comes before both."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tell_of_a_death(self) -> bool:
        """Whether a worker could not load its model, or died."""
        return any(death in self._text("workers") + self._text("server") for death in _DEATHS)

    def wait_for_traceback(self, seconds: float = 10.0) -> None:
        """Returns once a worker's traceback is there to its last line, none has come for a while, or the time is over.

        TorchServe copies what workers print line by line, which takes as long as the machine is busy.
        """
        began = time.monotonic()
        before: list[str] = []
        while (waited := time.monotonic() - began) < seconds:
            found = self._traceback()
            if (not found and waited > _WITHOUT_TRACEBACK) or (found and found == before and _is_complete(found)):
                return
            before = found
            time.sleep(_LOOK_EVERY)

    def system_error(self) -> OSError | None:
        """The reason of the operating system why a server does not start, where Java has met one."""
        if os.strerror(errno.EMFILE) in self._text("java"):
            return OSError(errno.EMFILE, os.strerror(errno.EMFILE), "TorchServe")
        number = next((each for each in _DISK if f"IOException: {os.strerror(each)}" in self._text("java")), None)
        if number is None and shutil.disk_usage(self._folder).free < _LEAST_ROOM:
            number = errno.ENOSPC
        return None if number is None else OSError(number, os.strerror(number), str(self._folder))

    def told(self) -> str:
        """What to tell of them: a worker's traceback where there is one, else the last lines of each."""
        if traceback := self._traceback():
            return "\nThe worker's own words:\n" + "\n".join(traceback[:60])
        parts = []
        for name in ("server", "workers", "java"):
            last = self._text(name).splitlines()[-15:]
            if last:
                parts.append(f"\nThe last lines of {name}.log:\n" + "\n".join(last))
        return "".join(parts)

    def _traceback(self) -> list[str]:
        """The first traceback of a worker, as far as it is there; it ends where the next worker's first line stands."""
        lines = [line.partition(" - ") for line in self._text("workers").splitlines()]
        for place, (head, _, message) in enumerate(lines):
            if message.startswith(_TRACEBACK):
                thread = head.split(" ", 3)[-1]
                told = [message for head, _, message in lines[place:] if head.endswith(thread)]
                return told[: next((i for i, message in enumerate(told) if message.startswith(_START)), None)]
        return []

    def _text(self, name: str) -> str:
        path = self._folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _is_complete(traceback: list[str]) -> bool:
    """Whether the line that names the error has come."""
    return not traceback[-1].startswith((" ", _TRACEBACK))
