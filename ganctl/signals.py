"""Handles termination signals: unwinds the command, ends its child processes and deletes its temporary files."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """Raised by a termination signal; not an Exception, so that no handler treats it as a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}; no partial file is left")
        self.exit_code = 128 + number


# seconds in which a further signal counts as the same one: a closed terminal sends SIGHUP twice, and a scheduler
# signals every process, also those to which a parent forwards the signal
REPEAT_WINDOW = 2.0
_RAISE_INTERVAL = 0.5  # seconds until Terminated is raised again if it was swallowed
_received: list[tuple[int, float]] = []  # the first termination signal and its time


def termination_signals(*others: signal.Signals) -> list[signal.Signals]:
    """Returns SIGTERM, SIGINT, SIGHUP and `others`, without those ignored at the start (nohup, `&` in a script)."""
    known = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *others)
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def unwind_on_signals() -> None:
    """Makes SIGTERM, SIGINT and SIGHUP unwind a command: child processes end, temporary files are deleted.

    Further signals do not disturb the unwinding: a closed terminal sends SIGHUP twice, from the kernel and from the
    shell. A signal that comes some seconds later ends the process at once, except SIGHUP.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if not _received:
            _received.append((number, time.monotonic()))
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, _RAISE_INTERVAL, _RAISE_INTERVAL)
        elif number in (signal.SIGTERM, signal.SIGINT) and time.monotonic() - _received[0][1] > REPEAT_WINDOW:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        handled = sys.exception()
        while handled is not None and not isinstance(handled, Terminated):
            handled = handled.__context__
        if handled is None:  # not unwinding: a destructor or a bare except may have swallowed the exception
            raise Terminated(_received[0][0])

    for number in termination_signals():
        signal.signal(number, stop)


def stop_unwinding() -> None:
    """Stops raising Terminated: from here on the process ends on its own."""
    if _received:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def noticed_signals(notice: Callable[[int], None]) -> Iterator[None]:
    """Calls `notice` with each termination signal in the context, and then the former handler.

    In another thread than the main one it does nothing, since Python handles signals in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in termination_signals()}

    def receive(number: int, frame: FrameType | None) -> None:
        notice(number)
        handler = former[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        else:  # the default action, which ends the process
            signal.signal(number, handler)
            os.kill(os.getpid(), number)

    for number in former:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in former.items():
            if signal.getsignal(number) is receive:  # a second signal may have set another one
                signal.signal(number, handler)
