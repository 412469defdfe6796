"""Metrics endpoint: the workers' counters, those of TorchServe's front end, and the served version, at one address."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector


class MetricsEndpoint(Collector):
    """Answers `GET /metrics` until it is closed.

    Args:
        host: the IP address to listen on.
        port: the port.
        folder: the folder of the workers' metrics files.
        workers: the configured number of workers.
        versions: returns the version of each model that is served now, by the model's name.
        front_end: returns the metrics of a front end, which also count replies that no worker gave.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        folder: Path,
        workers: int,
        versions: Callable[[], Mapping[str, str]],
        front_end: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self._folder, self._workers, self._versions, self._front_end = folder, workers, versions, front_end
        self._worker_metrics = MultiProcessCollector(None, path=str(folder))
        registry = CollectorRegistry()
        registry.register(self)
        self._server, _ = start_http_server(port, host, registry)

    def any_worker_busy(self) -> bool:
        """Returns whether a living worker is answering a batch."""
        metrics = self._collect_workers()
        return any(metric.name == "ganctl_busy_workers" and metric.samples[0].value for metric in metrics)

    def close(self) -> None:
        """Closes the endpoint."""
        self._server.shutdown()
        self._server.server_close()

    def collect(self) -> Iterator[Metric]:
        """Yields the workers' metrics, those of the front end, and the served version."""
        yield from self._collect_workers()
        yield from self._front_end()
        yield GaugeMetricFamily("ganctl_workers", "Configured number of workers.", value=self._workers)
        info = InfoMetricFamily("ganctl_model", "The models that are served.", labels=["model"])
        for name, version in self._versions().items():
            info.add_metric([name], {"version": version})
        yield info

    def _collect_workers(self) -> Iterator[Metric]:
        """Yields counters summed over all workers, dead ones included, and gauges of living workers only."""
        for path in self._folder.glob("gauge_live*_*.db"):
            pid = int(path.stem.rpartition("_")[2])
            if not Path(f"/proc/{pid}").exists():
                mark_process_dead(pid, str(self._folder))
        yield from self._worker_metrics.collect()
