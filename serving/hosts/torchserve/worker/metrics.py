"""What the workers count, in files that the server reads all together when it is asked for metrics."""

import logging
import os
from collections import Counter as Count
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram

from ganctl.serving.hosts.torchserve.worker.protocol import Outgoing

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_ROOM = 1 << 16  # bytes of a file, several times what is counted
_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)

log = logging.getLogger(__name__)


class Observation(Protocol):
    """What the handler tells of a batch."""

    images: int
    inference_seconds: float
    encode_seconds: float
    faults: Count[str]


class Meter:
    """The metrics of one worker.

    prometheus_client keeps them in $PROMETHEUS_MULTIPROC_DIR, where they outlive the process: a counter never falls.
    """

    def __init__(self) -> None:
        self._starts = Counter(
            "ganctl_worker_starts", "Workers that have loaded a model, also in the place of a dead one."
        )
        busy = "Workers that are answering a batch."
        self._busy = Gauge("ganctl_busy_workers", busy, multiprocess_mode="livesum")
        self._requests = Counter("ganctl_requests", "Requests that reached a worker.", ["status"])
        self._images = Counter("ganctl_images", "Images drawn.")
        self._faults = Counter("ganctl_faults", "What was wrong with requests.", ["field"])
        self._size = Histogram("ganctl_batch_size", "Requests that were answered together.", buckets=_SIZES)
        self._batch = Histogram("ganctl_batch_seconds", "From a batch's arrival to its replies.", buckets=_SECONDS)
        self._inference = Histogram("ganctl_inference_seconds", "Of a batch, drawing.", buckets=_SECONDS)
        self._encode = Histogram("ganctl_encode_seconds", "Of a batch, encoding.", buckets=_SECONDS)

    def started(self) -> None:
        """Counts a model's first load in this process."""
        self._starts.inc()

    def arrived(self) -> None:
        """Notes that a batch is in hand."""
        self._busy.set(1)

    def answered(self, replies: Sequence[Outgoing], observation: Observation | None, seconds: float) -> None:
        """Counts a batch, whose answer is on its way."""
        self._busy.set(0)
        for status, many in Count(reply.status for reply in replies).items():
            self._requests.labels(status).inc(many)
        self._size.observe(len(replies))
        self._batch.observe(seconds)
        if observation is None:
            return
        for field, many in observation.faults.items():
            self._faults.labels(field).inc(many)
        if observation.images:
            self._images.inc(observation.images)
            self._inference.observe(observation.inference_seconds)
            self._encode.observe(observation.encode_seconds)


def meter() -> Meter | None:
    """A meter, where there is a folder for one, and room in it."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is None:
        return None
    try:
        _reserve(Path(folder))
    except OSError:
        log.warning("this worker counts nothing, as there is no room for it", exc_info=True)
        return None
    return Meter()


def _reserve(folder: Path) -> None:
    """Takes the room for what is counted: written to a full disk later, a mapped file would end the process."""
    for kind in ("counter", "histogram", "gauge_livesum"):  # as prometheus_client names its files
        path = folder / f"{kind}_{os.getpid()}.db"
        with path.open("xb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, _ROOM)
            except OSError:
                path.unlink()
                raise
