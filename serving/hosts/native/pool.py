"""Keeps a number of worker processes running: restarts those that end, and ends them all."""

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable

_FIRST_PAUSE, _MAX_PAUSE = 0.1, 10.0  # seconds before a restart; doubled each time
_STABLE_SECONDS = 60.0  # a worker that ran so long is restarted after the first pause again
_POLL_SECONDS = 0.02

log = logging.getLogger(__name__)


class WorkerPool:
    """`count` workers, each started and watched by a thread of its own.

    The kernel kills a worker when the thread that started it ends, so that no worker survives this process.
    """

    def __init__(self, count: int, start: Callable[[int], "subprocess.Popen[bytes]"]) -> None:
        """Starts the workers.

        Args:
            count: the number of workers.
            start: starts the worker of a number from 0 on.
        """
        self._start = start
        self._closing = threading.Event()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._failure: OSError | None = None
        self.ended: list[int] = []  # the numbers of workers that ended by themselves, each as often as it did
        self._threads = [
            threading.Thread(target=self._watch, args=(number,), name=f"worker {number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def pids(self) -> list[int]:
        """Returns the process ids of the workers that run."""
        return [process.pid for process in self._processes.values() if process.poll() is None]

    def check(self) -> None:
        """Raises the error that kept a worker from being started, if there is one."""
        if self._failure is not None:
            raise self._failure

    def stop_restarts(self) -> None:
        """From now on, a worker that ends is not restarted."""
        self._closing.set()

    def drain(self, seconds: float, abort: threading.Event) -> bool:
        """Lets the workers answer the requests they have, and end; returns whether all ended in time."""
        self.stop_restarts()
        deadline = time.monotonic() + seconds
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        while any(process.poll() is None for process in self._processes.values()):
            if abort.wait(_POLL_SECONDS) or time.monotonic() > deadline:
                return False
        return True

    def close(self) -> None:
        """Ends all workers at once."""
        self.stop_restarts()
        for process in self._processes.values():
            process.kill()
        for thread in self._threads:
            thread.join()

    def _watch(self, number: int) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                process = self._start(number)
            except OSError as error:
                self._failure = error
                return
            self._processes[number] = process
            if self._closing.is_set():  # `close` may have read the processes before this one was added
                process.kill()
            status = process.wait()
            if self._closing.is_set():
                return
            self.ended.append(number)
            log.warning("worker %d ended with status %d", number, status)
            pause = _FIRST_PAUSE if time.monotonic() - started > _STABLE_SECONDS else min(2 * pause, _MAX_PAUSE)
            self._closing.wait(pause)
