"""Prometheus metrics of a worker, in files that the server aggregates over all workers."""

import logging
import os
from collections import Counter as Count
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from ganctl.serving.handler.service import Observation

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_FILE_BYTES = 1 << 16  # several times what the metrics need
_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)

log = logging.getLogger(__name__)


class Metrics:
    """The metrics of one worker.

    prometheus_client keeps them in $PROMETHEUS_MULTIPROC_DIR, where they outlive the process: counters never decrease.

    Args:
        has_queue: whether requests wait in the worker, as in the native host; TorchServe's queue is in its front end.
    """

    def __init__(self, *, has_queue: bool) -> None:
        self._starts = Counter("ganctl_worker_starts", "Workers that loaded a model, including restarted ones.")
        self.busy = Gauge("ganctl_busy_workers", "Workers that are answering a batch.", multiprocess_mode="livesum")
        model, seconds = ["model"], _SECONDS
        self.requests = Counter("ganctl_requests", "Requests that reached a worker.", ["model", "status"])
        self.images = Counter("ganctl_images", "Images generated.", model)
        self.faults = Counter("ganctl_faults", "Invalid fields of requests.", ["model", "field"])
        self.size = Histogram("ganctl_batch_size", "Requests in a batch.", model, buckets=_SIZES)
        self.batch = Histogram(
            "ganctl_batch_seconds", "Time from a batch's arrival to its replies.", model, buckets=seconds
        )
        self.inference = Histogram("ganctl_inference_seconds", "Inference time of a batch.", model, buckets=seconds)
        self.encode = Histogram("ganctl_encode_seconds", "Image encoding time of a batch.", model, buckets=seconds)
        self._in_progress, self.queue = None, None
        if has_queue:
            description = "Requests that are being answered."
            self._in_progress = Gauge("ganctl_requests_in_progress", description, multiprocess_mode="livesum")
            description = "Time that the first request of a batch waited to be drawn."
            self.queue = Histogram("ganctl_queue_seconds", description, model, buckets=seconds)

    def count_start(self) -> None:
        """Counts the first load of a model in this process."""
        self._starts.inc()

    def count_refusal(self, status: int) -> None:
        """Counts a reply to a request that was passed on to no model."""
        self.requests.labels("", status).inc()

    def set_in_progress(self, count: int) -> None:
        """Sets the number of requests that the worker is answering."""
        assert self._in_progress is not None, "the worker has a queue"
        self._in_progress.set(count)
        self.busy.set(count > 0)

    def start_batch(self) -> None:
        """Marks the worker as busy."""
        self.busy.set(1)

    def of_model(self, name: str) -> "ModelMetrics":
        """Returns the metrics of the batches of a model."""
        return ModelMetrics(self, name)


class ModelMetrics:
    """The metrics of the batches of one model."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._requests, self._faults, self._busy, self._name = metrics.requests, metrics.faults, metrics.busy, name
        self._images, self._size = metrics.images.labels(name), metrics.size.labels(name)
        self._batch, self._inference = metrics.batch.labels(name), metrics.inference.labels(name)
        self._encode = metrics.encode.labels(name)
        self._queue = metrics.queue.labels(name) if metrics.queue is not None else None

    def finish_batch(
        self, statuses: Sequence[int], observation: "Observation | None", seconds: float, waited: float | None = None
    ) -> None:
        """Marks the worker as idle and counts an answered batch.

        Args:
            statuses: those of the replies that were sent.
            observation: the handler's measurements; None if the handler was not called.
            seconds: from the batch's arrival to its replies.
            waited: seconds that its first request waited in the worker; None if it did not wait there.
        """
        self._busy.set(0)
        for status, count in Count(statuses).items():
            self._requests.labels(self._name, status).inc(count)
        self._size.observe(len(statuses))
        self._batch.observe(seconds)
        if self._queue is not None and waited is not None:
            self._queue.observe(waited)
        if observation is None:
            return
        for field, count in observation.faults.items():
            self._faults.labels(self._name, field).inc(count)
        if observation.images:
            self._images.inc(observation.images)
            self._inference.observe(observation.inference_seconds)
            self._encode.observe(observation.encode_seconds)


def create_metrics(*, has_queue: bool) -> Metrics | None:
    """Returns new metrics, or None if the disk of $PROMETHEUS_MULTIPROC_DIR is full.

    Allocates their files on the disk: a write to a mapped file would end the process with SIGBUS once the disk is full.
    """
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    kinds = ("counter", "histogram", "gauge_livesum")  # prometheus_client's file names
    files = [folder / f"{kind}_{os.getpid()}.db" for kind in kinds]
    try:
        for path in files:
            with path.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
    except OSError:
        log.warning("this worker has no metrics: their files cannot be created in %s", folder, exc_info=True)
        for path in files:
            path.unlink(missing_ok=True)
        return None
    return Metrics(has_queue=has_queue)
