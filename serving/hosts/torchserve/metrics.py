"""What a pager asks a server: the workers' counters, the front end's, and who serves what, at one address."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ganctl.serving.hosts.torchserve.management import front_end


class Metrics:
    """Answers `GET /metrics` on a port of loopback until it is closed."""

    def __init__(self, port: int, *, counters: Path, front_end: Path, workers: int, model: Callable[[], str]) -> None:
        """counters: the folder where the workers count. front_end: the Unix socket of the front end's own metrics.
        workers: how many there should be. model: tells the version that is served."""
        registry = CollectorRegistry()
        self._workers = _Workers(counters)
        registry.register(self._workers)
        registry.register(_FrontEnd(front_end))
        registry.register(_Facts(workers, model))
        started: tuple[WSGIServer, threading.Thread] = start_http_server(port, "127.0.0.1", registry)
        self._server, self._thread = started

    def is_a_worker_busy(self) -> bool:
        """Whether a living worker answers a batch just now."""
        return any(
            metric.name == "ganctl_busy_workers" and metric.samples[0].value for metric in self._workers.collect()
        )

    def close(self) -> None:
        """Answers no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Workers(Collector):
    """What all workers have counted, also those that are no more; of the gauges, what the living say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all = MultiProcessCollector(None, path=str(folder))

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for path in self._folder.glob("gauge_live*_*.db"):
            pid = int(path.stem.rpartition("_")[2])
            if not Path(f"/proc/{pid}").exists():
                mark_process_dead(pid, str(self._folder))
        yield from self._all.collect()


class _FrontEnd(Collector):
    """TorchServe's own: what it answered, also where no worker was asked, and how long requests waited."""

    def __init__(self, path: Path) -> None:
        self._http = front_end(path)

    def describe(self) -> list[Metric]:
        return []  # or it would be asked before it listens

    def collect(self) -> Iterator[Metric]:
        reply = self._http.get("/metrics").raise_for_status()
        yield from text_string_to_metric_families(reply.text)


class _Facts(Collector):
    def __init__(self, workers: int, model: Callable[[], str]) -> None:
        self._workers = workers
        self._model = model

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("ganctl_workers", "Workers that there should be.", value=self._workers)
        yield InfoMetricFamily("ganctl_model", "What is served.", value={"version": self._model()})
