"""A queue of tasks that one thread runs in order, so that training does not wait for a tracking server."""

import queue
import threading
import time
from collections.abc import Callable

_SHORT_WAIT = 15.0  # seconds for the rest where a signal ends the process, or sending fails
_MAX_WAITING = 1000  # tasks; a preview grid has about 100 kB
_MAX_WAITING_FAILING = 10  # tasks while sending fails


class Outbox:
    """Runs tasks in order in a thread. A task that fails is left out, and later tasks run all the same.

    New tasks are dropped while too many of them wait: for a server that is slow or absent.
    """

    def __init__(self, name: str) -> None:
        self.errors: list[BaseException] = []  # of the tasks that failed, and one for those that were dropped
        self._failing = False  # whether the last task failed
        self._closing = self._done = self._dropped = False
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # a daemon: a server that does not answer must not keep the process
        self._thread = threading.Thread(target=self._run, name=f"ganctl-{name}", daemon=True)
        self._thread.start()

    def put(self, task: Callable[[], None]) -> None:
        """Adds a task, or drops it if too many are waiting; does not wait."""
        if self._tasks.qsize() < (_MAX_WAITING_FAILING if self._failing else _MAX_WAITING):
            self._tasks.put(task)
        elif not self._dropped:
            self._dropped = True
            self.errors.append(TimeoutError("too many parts wait to be sent, and new ones are left out"))

    def close(self, last: Callable[[], None], timeout: float, hurried: Callable[[], bool] = lambda: False) -> bool:
        """Waits until all tasks are done; after a failure, the tasks that are left are dropped.

        Args:
            last: the last task; it is not dropped for those that wait.
            timeout: seconds to wait.
            hurried: whether to wait 15 seconds at most from now on; after a failure it is no longer in any case.

        Returns:
            True if all waiting tasks were run, False if some were dropped or were not done in time.
        """
        self._closing = True
        self._tasks.put(last)
        self._tasks.put(None)
        end, short = time.monotonic() + timeout, False
        while self._thread.is_alive() and time.monotonic() < end:
            if not short and (self._failing or hurried()):
                end, short = min(end, time.monotonic() + _SHORT_WAIT), True
            self._thread.join(0.1)  # short, so that a signal can interrupt the wait
        return self._done and not self._failing

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._closing and self._failing:
                continue  # each task would wait for the server again
            try:
                task()
                self._failing = False
            # the packages raise errors of many kinds: their own, HTTP's, SQL's, the disk's, and SystemExit
            except BaseException as error:
                self.errors.append(error)
                self._failing = True
        self._done = True
