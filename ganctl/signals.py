"""Signals that end a command: it unwinds, ends its stages and deletes its temporary files."""

import os
import signal
import sys
import time
from types import FrameType


class Terminated(BaseException):
    """A signal asks a command to end; no Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}; nothing half-written is left")
        self.exit_code = 128 + number


HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
_ECHO = 3.0  # seconds in which one more signal is taken for the same request
_AGAIN = 0.5  # seconds after which Terminated is raised anew where something has swallowed it
_received: list[tuple[int, float]] = []  # the signal that ends this process, and when it came


def end_signals() -> list[signal.Signals]:
    """The signals that ask a process to end, but for those that it was started to ignore (nohup, `&` in a script)."""
    known = [signal.SIGTERM, signal.SIGINT, *([HANG_UP] if HANG_UP is not None else [])]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def unwind_on_signals() -> None:
    """Makes SIGTERM, SIGINT and SIGHUP unwind a command: its stages are ended, its temporary files are deleted.

    Further signals do not disturb the unwinding (a closed terminal sends SIGHUP twice, by the kernel and by the shell);
    one that comes after some seconds ends the process at once, except SIGHUP.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if not _received:
            _received.append((number, time.monotonic()))
            if hasattr(signal, "setitimer"):
                signal.signal(signal.SIGALRM, stop)
                signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
        elif number in (signal.SIGTERM, signal.SIGINT) and time.monotonic() - _received[0][1] > _ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        handled = sys.exception()
        while handled is not None and not isinstance(handled, Terminated):
            handled = handled.__context__
        if handled is None:  # not unwinding: a destructor or a bare except may have swallowed what was raised before
            raise Terminated(_received[0][0])

    for number in end_signals():
        signal.signal(number, stop)


def stop_unwinding() -> None:
    """From here on the process ends by itself."""
    if _received and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
