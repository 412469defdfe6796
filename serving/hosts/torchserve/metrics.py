"""Metrics endpoint: the workers' counters, the front end's, and the served version, at one address."""

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

from ganctl.serving.hosts.torchserve.management import front_end_client


class MetricsEndpoint:
    """Answers `GET /metrics` on a loopback port until it is closed.

    Args:
        port: the port.
        counters: the folder of the workers' metrics files.
        front_end: the Unix socket of the front end's own metrics.
        workers: the configured number of workers.
        model: returns the version that is served now.
    """

    def __init__(self, port: int, *, counters: Path, front_end: Path, workers: int, model: Callable[[], str]) -> None:
        registry = CollectorRegistry()
        self._workers = _WorkerCollector(counters)
        registry.register(self._workers)
        registry.register(_FrontEndCollector(front_end))
        registry.register(_InfoCollector(workers, model))
        started: tuple[WSGIServer, threading.Thread] = start_http_server(port, "127.0.0.1", registry)
        self._server, self._thread = started

    def any_worker_busy(self) -> bool:
        """Returns whether a living worker is answering a batch."""
        return any(
            metric.name == "ganctl_busy_workers" and metric.samples[0].value for metric in self._workers.collect()
        )

    def close(self) -> None:
        """Closes the endpoint."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _WorkerCollector(Collector):
    """Counters summed over all workers, dead ones included; gauges of living workers only."""

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


class _FrontEndCollector(Collector):
    """TorchServe's own metrics: replies by status, including those that no worker gave, and queue times."""

    def __init__(self, path: Path) -> None:
        self._http = front_end_client(path)

    def describe(self) -> list[Metric]:
        return []  # without this, registration would call collect before the front end listens

    def collect(self) -> Iterator[Metric]:
        reply = self._http.get("/metrics").raise_for_status()
        yield from text_string_to_metric_families(reply.text)


class _InfoCollector(Collector):
    def __init__(self, workers: int, model: Callable[[], str]) -> None:
        self._workers = workers
        self._model = model

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("ganctl_workers", "Configured number of workers.", value=self._workers)
        yield InfoMetricFamily("ganctl_model", "The model that is served.", value={"version": self._model()})
