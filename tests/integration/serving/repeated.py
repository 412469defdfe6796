"""Clients that send requests in the background of a test; a test waits for replies, not for seconds."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from tests.waiting import wait_for


class Repeated:
    """Counts the replies of each client."""

    def __init__(self, clients: int) -> None:
        self.counts = [0] * clients
        self.futures: list[Future[None]] = []

    def wait_for_more(self, count: int) -> None:
        """Returns once every client has got `count` more replies; raises the exception of a client that failed."""
        before = list(self.counts)

        def enough() -> bool:
            for future in self.futures:
                if future.done():
                    future.result()
            return all(now >= then + count for now, then in zip(self.counts, before, strict=True))

        wait_for(enough, f"every client gets {count} more replies")


@contextmanager
def repeated(clients: int, start: Callable[[], Callable[[], object]]) -> Iterator[Repeated]:
    """Runs `clients` threads that send requests until the block ends.

    Args:
        start: called once in each thread; returns a function that sends one request and waits for the reply.

    Raises:
        Exception: the exception of a client, at the end of the block.
    """
    stopped, running = threading.Event(), Repeated(clients)

    def run_client(client: int) -> None:
        send = start()
        while not stopped.is_set():
            send()
            running.counts[client] += 1

    with ThreadPoolExecutor(clients) as threads:
        running.futures = [threads.submit(run_client, client) for client in range(clients)]
        try:
            yield running
        finally:
            stopped.set()
        for future in running.futures:
            future.result()
