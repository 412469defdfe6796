"""Prometheus metrics of a worker, in files that the server aggregates over all workers."""

import logging
import os
from collections import Counter as Count
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from ganctl.serving.hosts.torchserve.worker.protocol import PredictReply

if TYPE_CHECKING:
    from ganctl.serving.handler.service import Observation

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_FILE_BYTES = 1 << 16  # several times what the metrics need
_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)

log = logging.getLogger(__name__)


class Metrics:
    """The metrics of one worker.

    prometheus_client keeps them in $PROMETHEUS_MULTIPROC_DIR, where they outlive the process: counters never decrease.
    """

    def __init__(self) -> None:
        self._starts = Counter("ganctl_worker_starts", "Workers that loaded a model, including restarted ones.")
        self._busy = Gauge("ganctl_busy_workers", "Workers that are answering a batch.", multiprocess_mode="livesum")
        self._requests = Counter("ganctl_requests", "Requests that reached a worker.", ["status"])
        self._images = Counter("ganctl_images", "Images generated.")
        self._faults = Counter("ganctl_faults", "Invalid fields of requests.", ["field"])
        self._size = Histogram("ganctl_batch_size", "Requests in a batch.", buckets=_SIZES)
        self._batch = Histogram("ganctl_batch_seconds", "Time from a batch's arrival to its replies.", buckets=_SECONDS)
        self._inference = Histogram("ganctl_inference_seconds", "Inference time of a batch.", buckets=_SECONDS)
        self._encode = Histogram("ganctl_encode_seconds", "Image encoding time of a batch.", buckets=_SECONDS)

    def count_start(self) -> None:
        """Counts the first load of a model in this process."""
        self._starts.inc()

    def start_batch(self) -> None:
        """Marks the worker as busy."""
        self._busy.set(1)

    def finish_batch(self, replies: Sequence[PredictReply], observation: "Observation | None", seconds: float) -> None:
        """Marks the worker as idle and counts an answered batch.

        Args:
            replies: the replies that were sent.
            observation: the handler's measurements; None if the handler was not called.
            seconds: from the batch's arrival to its replies.
        """
        self._busy.set(0)
        for status, count in Count(reply.status for reply in replies).items():
            self._requests.labels(status).inc(count)
        self._size.observe(len(replies))
        self._batch.observe(seconds)
        if observation is None:
            return
        for field, count in observation.faults.items():
            self._faults.labels(field).inc(count)
        if observation.images:
            self._images.inc(observation.images)
            self._inference.observe(observation.inference_seconds)
            self._encode.observe(observation.encode_seconds)


def create_metrics() -> Metrics | None:
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
    return Metrics()
