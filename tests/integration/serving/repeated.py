"""Clients that send requests in the background of a test; a test waits for replies, not for seconds."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from tests.waiting import wait_for


class Repeated:
    """How often each client has asked and been answered."""

    def __init__(self, clients: int) -> None:
        self.counts = [0] * clients
        self.futures: list[Future[None]] = []

    def wait_for_more(self, many: int) -> None:
        """Returns once every client has been answered so many times more; raises what a client has raised."""
        before = list(self.counts)

        def enough() -> bool:
            for future in self.futures:
                if future.done():
                    future.result()
            return all(now >= then + many for now, then in zip(self.counts, before, strict=True))

        wait_for(enough, f"every client is answered {many} times more")


@contextmanager
def repeated(clients: int, start: Callable[[], Callable[[], object]]) -> Iterator[Repeated]:
    """Runs what `start()` gives, one for each client on a thread of its own, again and again until the block ends.

    What a client raises comes out at the end of the block.
    """
    over, running = threading.Event(), Repeated(clients)

    def ask(client: int) -> None:
        once = start()
        while not over.is_set():
            once()
            running.counts[client] += 1

    with ThreadPoolExecutor(clients) as threads:
        running.futures = [threads.submit(ask, client) for client in range(clients)]
        try:
            yield running
        finally:
            over.set()
        for future in running.futures:
            future.result()
