"""A queue of tasks that one thread runs in order, so that training does not wait for a tracking server."""

import queue
import threading
import time
from collections.abc import Callable


class Outbox:
    """Runs tasks in order in a thread. A task that fails is left out, and later tasks run all the same."""

    def __init__(self, name: str) -> None:
        self.errors: list[Exception] = []  # of the tasks that failed
        self._failing = False  # whether the last task failed
        self._closing = False
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # a daemon: a server that does not answer must not keep the process
        self._thread = threading.Thread(target=self._run, name=f"ganctl-{name}", daemon=True)
        self._thread.start()

    def put(self, task: Callable[[], None]) -> None:
        """Adds a task; does not wait."""
        self._tasks.put(task)

    def close(self, timeout: float) -> bool:
        """Waits until all tasks are done; after a failure, the tasks that are left are dropped.

        Returns:
            True if all tasks were run, False if some were dropped or were not done after `timeout` seconds.
        """
        self._closing = True
        self._tasks.put(None)
        end = time.monotonic() + timeout
        while self._thread.is_alive() and time.monotonic() < end:
            self._thread.join(0.1)  # short, so that a signal can interrupt the wait
        return not self._thread.is_alive() and not self._failing

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._closing and self._failing:
                continue  # each task would wait for the server again
            try:
                task()
                self._failing = False
            except Exception as error:  # the packages raise errors of many kinds: their own, HTTP's, SQL's, the disk's
                self.errors.append(error)
                self._failing = True
