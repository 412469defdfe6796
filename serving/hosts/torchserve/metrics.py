"""Metrics endpoint: the workers' counters, the front end's, and the served version, at one address."""

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ganctl.serving.hosts.torchserve.management import front_end_client


class MetricsEndpoint(Collector):
    """Answers `GET /metrics` on a loopback port until it is closed.

    Args:
        port: the port.
        folder: the folder of the workers' metrics files.
        front_end: the Unix socket of the front end's own metrics.
        workers: the configured number of workers.
        model_version: returns the version that is served now.
    """

    def __init__(
        self, port: int, *, folder: Path, front_end: Path, workers: int, model_version: Callable[[], str]
    ) -> None:
        self._folder, self._workers, self._model_version = folder, workers, model_version
        self._front_end = front_end_client(front_end)
        self._worker_metrics = MultiProcessCollector(None, path=str(folder))
        registry = CollectorRegistry()
        registry.register(self)
        self._server, _ = start_http_server(port, "127.0.0.1", registry)

    def any_worker_busy(self) -> bool:
        """Returns whether a living worker is answering a batch."""
        metrics = self._collect_workers()
        return any(metric.name == "ganctl_busy_workers" and metric.samples[0].value for metric in metrics)

    def close(self) -> None:
        """Closes the endpoint."""
        self._server.shutdown()
        self._server.server_close()

    def collect(self) -> Iterator[Metric]:
        """Yields the workers' metrics, those of the front end, and the served version.

        The front end also counts replies that no worker gave, and the time that requests wait.
        """
        yield from self._collect_workers()
        yield from text_string_to_metric_families(self._front_end.get("/metrics").raise_for_status().text)
        yield GaugeMetricFamily("ganctl_workers", "Configured number of workers.", value=self._workers)
        yield InfoMetricFamily("ganctl_model", "The model that is served.", value={"version": self._model_version()})

    def _collect_workers(self) -> Iterator[Metric]:
        """Yields counters summed over all workers, dead ones included, and gauges of living workers only."""
        for path in self._folder.glob("gauge_live*_*.db"):
            pid = int(path.stem.rpartition("_")[2])
            if not Path(f"/proc/{pid}").exists():
                mark_process_dead(pid, str(self._folder))
        yield from self._worker_metrics.collect()
