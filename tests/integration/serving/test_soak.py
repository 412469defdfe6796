"""A long mixed load does not increase the server's memory. SOAK_SECONDS sets its length (default: 15 minutes)."""

import json
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.integration.serving.conftest import Running
from tests.integration.serving.hostile import MEDIA, valid
from tests.integration.serving.hostile_kinds import JSON
from tests.integration.serving.watch import Watch
from tests.integration.serving.wire import Wire, request

SECONDS = float(os.environ.get("SOAK_SECONDS", "900"))
CONNECTIONS = 8

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(SECONDS + 300),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


def test_memory_stays_flat_under_a_long_mixed_load(own: Running) -> None:
    watch, stopped = Watch(own), threading.Event()
    workers = watch.workers()
    samples: list[tuple[float, ...]] = []  # seconds since the start, then the fields of Memory
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        loads = [threads.submit(_load, own.url, seed, stopped) for seed in range(CONNECTIONS)]
        try:
            start = time.monotonic()
            while (now := time.monotonic() - start) < SECONDS:
                samples.append((now, *watch.memory()))
                time.sleep(SECONDS / 60)
        finally:
            stopped.set()
        statuses = sum((load.result() for load in loads), Counter[int]())
    assert set(statuses) <= {200, 400, 429}, statuses
    assert statuses[200] > 50 * SECONDS
    assert watch.workers() == workers
    minutes = SECONDS / 60
    warm = np.array(samples[len(samples) // 3 :])
    heap, java, worker = np.polyfit(warm[:, 0] / 60, warm[:, 1:], 1)[0]  # MiB per minute
    print(f"{dict(statuses)}; MiB per minute: heap {heap:+.3f}, Java {java:+.2f}, worker {worker:+.2f}; {samples[-1]}")
    assert heap < 2 / minutes
    assert worker < 16 / minutes  # grows and shrinks with batches of large requests
    assert java < 512 / minutes  # Java reserves memory in advance; the heap shows what it uses


def _load(url: str, seed: int, stopped: threading.Event) -> Counter[int]:
    """Sends requests until `stopped`: most are small, some large, some invalid. Counts the statuses."""
    rng, statuses = random.Random(seed), Counter[int]()
    wire = Wire(url)
    while not stopped.is_set():
        kind = rng.random()
        if kind < 0.02:
            fields = {"count": 256, "scale": rng.randint(1, 4), "seed": rng.randrange(2**53)}
            wire.send(request(body=json.dumps(fields).encode(), headers=[JSON, ("Accept", rng.choice(MEDIA))]))
        elif kind < 0.05:
            wire.send(request(body=b'{"count": 0}', headers=[JSON]))
        else:
            wire.send(valid(rng).data)
        reply = wire.read()
        assert reply is not None
        statuses[reply.status] += 1
        if reply.status >= 400:  # TorchServe closes the connection
            wire.close()
            wire = Wire(url)
    wire.close()
    return statuses
