"""Trainings on the same CPU cores take turns.

The threads of a step wait for each other hundreds of times, in oneDNN by spinning. While another training's thread has
a core, each wait lasts until the kernel switches threads, and both trainings run at a tenth of their rate. So a process
takes as many cores as it has threads for a short turn, and then passes them on to the process that has waited longest.
Turns change no result: they only delay a process between two steps. docs/decisions/0027-trainings-take-turns.md has the
measurements.

All processes of a user lock bytes of one file: one per core for its turn, and one per core for the queue. The kernel
grants a lock in the order of the requests, and releases those of a process that ends.
"""

import fcntl
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ganctl.processes import core_numbers
from ganctl.training.errors import ConfigError

T = TypeVar("T")

VARIABLE = "GANCTL_TURNS"  # on or off
SECONDS = 0.25  # of a turn: filling the caches again takes about 1 % of it, and a progress bar does not stand still
PATIENCE = 5.0  # seconds without a turn after which a process goes on: another one holds its turn, as when stopped
_POLL = 0.002  # seconds
_TURNS = 1 << 20  # offset of the bytes of turns, after those of the queue

_log = logging.getLogger(__name__)
_current: "Turns | None" = None


@contextmanager
def take_turns(threads: int) -> Iterator[None]:
    """Makes `next_turn` take turns with the other processes of this user, in the context.

    Within another such context, with GANCTL_TURNS=off, or if the file cannot be locked, there are no turns.

    Args:
        threads: number of threads that compute in the turns; 0: no turns, as on a GPU.

    Raises:
        ConfigError: GANCTL_TURNS is neither on nor off.
    """
    global _current
    if (setting := os.environ.get(VARIABLE, "").strip().lower()) not in ("", "on", "off"):
        raise ConfigError([f"{VARIABLE}: found {setting!r}, expected on or off. Change it, or unset it."])
    if setting == "off" or _current is not None or not threads:
        yield
        return
    try:
        _current = Turns(turns_file(), core_numbers(), threads)
    except OSError as error:
        _log.info("no turns with other processes: %s", error)
    try:
        yield
    finally:
        turns, _current = _current, None
        if turns is not None:
            turns.close()


def next_turn() -> None:
    """Waits for the next turn if this one is over. Call it between units of work that take well below a second."""
    if _current is not None:
        _current.next()


def in_turns(units: Iterable[T]) -> Iterator[T]:
    """Yields units of work, each within a turn."""
    for unit in units:
        next_turn()
        yield unit


def end_turn() -> None:
    """Passes the cores on early, before work that hardly uses them, such as a save."""
    if _current is not None:
        _current.end()


def others_take_turns() -> bool:
    """Returns whether another process has a turn on a core of this one. Not to be called within `take_turns`."""
    try:
        turns = Turns(turns_file(), core_numbers(), len(core_numbers()))
    except OSError:
        return False
    free = turns.try_next()
    turns.close()
    return not free


def turns_file() -> Path:
    """Returns the file whose bytes are locked; each user of the machine has one."""
    return Path(tempfile.gettempdir()) / f"ganctl-turns-{os.getuid()}"


class Turns:
    """The turns of one process."""

    def __init__(
        self,
        file: Path,
        cores: Collection[int],
        threads: int,
        *,
        seconds: float = SECONDS,
        patience: float = PATIENCE,
    ) -> None:
        """Opens the file; the first turn begins with `next`.

        Args:
            file: created if it is absent.
            cores: those that the process may use.
            threads: number of cores that it takes for a turn, at most all of them.
            seconds: length of a turn.
            patience: seconds after which `next` returns without a turn; it begins as soon as the cores are free.

        Raises:
            OSError: the file cannot be opened, or is another user's.
        """
        self._cores, self._threads = sorted(cores), min(threads, len(cores))
        self._seconds, self._patience = seconds, patience
        self._end = 0.0  # of the turn
        self._waiter: threading.Thread | None = None
        self._impatient = self._closed = False
        self._closing = threading.Lock()  # of `_closed` and the end of the waiter
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(self._file)
            if status.st_uid != os.getuid() or not stat.S_ISREG(status.st_mode):
                raise PermissionError(f"{file}: found another user's file, expected one of this user")
            self._unlock(0)  # fails on a file system without locks
        except OSError:
            os.close(self._file)
            raise

    def next(self) -> None:
        """Waits for the next turn if this one is over."""
        if time.monotonic() < self._end or self._waiter is not None:
            return
        self.end()
        if self.try_next():
            return
        self._waiter = waiter = threading.Thread(target=self._wait, name="turns", daemon=True)
        waiter.start()
        waiter.join(self._patience)
        if waiter.is_alive() and not self._impatient:
            self._impatient = True
            _log.warning("another process has kept the cores for %g s: this one goes on beside it", self._patience)

    def try_next(self) -> bool:
        """Begins the next turn if the cores are free and nobody waits for them; else keeps its place in the queue.

        Returns:
            Whether the turn has begun.
        """
        try:
            for core in self._cores:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, core)
        except (BlockingIOError, PermissionError):
            return False
        if not self._lock_cores():
            return False
        self._unlock(0)
        self._begin()
        return True

    def end(self) -> None:
        """Ends the turn, and releases the cores."""
        self._end = 0.0
        if self._waiter is None:
            self._unlock(_TURNS)

    def close(self) -> None:
        """Ends the turn; no other will begin."""
        with self._closing:
            self._closed = True
            if self._waiter is None:
                os.close(self._file)  # releases all locks

    def _begin(self) -> None:
        self._end = time.monotonic() + self._seconds

    def _wait(self) -> None:
        """Waits in the queue, then at its head for the cores: only the head takes any, so it gets all that it needs."""
        for core in self._cores:  # in ascending order, as all do, so that no two wait for each other
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, core)
        start = time.monotonic()
        while not self._lock_cores() and not self._closed:
            time.sleep(max(_POLL, (time.monotonic() - start) / 100))
        self._unlock(0)
        with self._closing:
            self._begin()
            self._waiter = None
            if self._closed:
                os.close(self._file)

    def _lock_cores(self) -> bool:
        """Locks as many cores as there are threads, or none."""
        locked = 0
        for core in self._cores:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _TURNS + core)
            except (BlockingIOError, PermissionError):
                continue
            locked += 1
            if locked == self._threads:
                return True
        self._unlock(_TURNS)
        return False

    def _unlock(self, offset: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, _TURNS, offset)
