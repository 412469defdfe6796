"""Access log: one line of JSON for each request that reached a worker."""

import json
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from ganctl.serving.hosts.worker.correlation import correlation_headers
from ganctl.serving.hosts.worker.messages import PredictReply, PredictRequest

_MAX_BYTES, _BACKUPS = 10_000_000, 3  # for each worker: the current file and three full ones


class AccessLog:
    """Writes `access-PID.jsonl` into a folder and rotates it by size."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"access-{os.getpid()}.jsonl"
        self._log = logging.Logger("access")  # outside the logger hierarchy, whose levels must not apply
        self._log.addHandler(RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS))

    def write(self, batch: Sequence[PredictRequest], replies: Sequence[PredictReply], seconds: float) -> None:
        """Logs a batch that was answered `seconds` after its arrival."""
        for request, reply in zip(batch, replies, strict=True):
            self.write_one(request, reply, len(batch), seconds)

    def write_one(
        self, request: PredictRequest, reply: PredictReply, batch_size: int, seconds: float, **more: str | None
    ) -> None:
        """Logs a request that was answered in a batch of that size, `seconds` after its arrival; with `more` fields."""
        headers = {name.lower(): value for name, value in reply.headers.items()}
        correlation = correlation_headers(request.headers)
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request.identity.decode("ascii", "replace"),
            **{name.lower().replace("-", "_"): value for name, value in correlation.items()},
            "status": reply.status,
            "media_type": headers.get("content-type"),
            "bytes": len(reply.body),
            "seed": int(headers["x-seed"]) if "x-seed" in headers else None,
            "model_version": headers.get("x-model-version"),
            "batch_size": batch_size,
            "milliseconds": round(1e3 * seconds, 3),
            **more,
        }
        self._log.info(json.dumps(record))
