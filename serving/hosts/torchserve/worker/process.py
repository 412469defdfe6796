"""The worker's main loop: TorchServe's front end starts it, connects to it, and sends a model to load and then batches.

It stands in the place of TorchServe's `model_service_worker.py`. The environment says the rest: GANCTL_STATE, the
folder of the server's orders (`orders.py`); PROMETHEUS_MULTIPROC_DIR, where it counts; GANCTL_ACCESS_LOG, a folder.
"""

import argparse
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ganctl.serving.hosts.torchserve.worker.access_log import AccessLog
from ganctl.serving.hosts.torchserve.worker.commands import Commands
from ganctl.serving.hosts.torchserve.worker.correlation import correlation_headers
from ganctl.serving.hosts.torchserve.worker.metrics import Meter, Observation, meter
from ganctl.serving.hosts.torchserve.worker.protocol import (
    Incoming,
    Incomplete,
    Load,
    Outgoing,
    loaded,
    read_message,
    write_batch,
)
from ganctl.serving.hosts.torchserve.worker.refusal import refuse

_CONNECTED_WITHIN = 30.0  # seconds
_RECEIVE = 1 << 20

log = logging.getLogger(__name__)


class Worker:
    """Answers messages."""

    def __init__(self, orders: Commands, meter: Meter | None = None, access: AccessLog | None = None) -> None:
        self._orders = orders
        self._meter = meter
        self._access = access

    def serve(self, connection: socket.socket) -> None:
        """Answers until the front end hangs up."""
        data = b""
        while received := connection.recv(_RECEIVE):
            data = data + received if data else received
            try:
                message = read_message(data)
            except Incomplete:
                continue
            data = b""
            if isinstance(message, Load):
                connection.sendall(self._load(message))
                continue
            if self._meter is not None:
                self._meter.arrived()
            began = time.perf_counter()
            replies, observation = self.answer(message)
            connection.sendall(write_batch(replies))
            self._note(message, replies, observation, time.perf_counter() - began)

    def _load(self, order: Load) -> bytes:
        self._orders.load(Path(order.folder), order.handler)
        if self._meter is not None:
            self._meter.started()
        return loaded(200, "loaded")

    def answer(self, batch: Sequence[Incoming]) -> tuple[list[Outgoing], Observation | None]:
        """The replies to a batch, and what there is to know of it."""
        replies: list[Outgoing]
        observation: Observation | None
        if self._orders.draining:
            replies, observation = [refuse(request) for request in batch], None
        else:
            replies, observation = self._orders.model.answer(batch)
        for request, reply in zip(batch, replies, strict=True):
            reply.headers.update(correlation_headers(request.headers))
        return replies, observation

    def _note(
        self, batch: Sequence[Incoming], replies: Sequence[Outgoing], observation: Observation | None, seconds: float
    ) -> None:
        if self._meter is not None:
            self._meter.answered(replies, observation, seconds)
        if self._access is not None:
            self._access.write(batch, replies, seconds)


def main() -> None:
    """Runs a worker as TorchServe's front end calls it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sock-type", choices=["unix"], required=True)
    parser.add_argument("--sock-name", required=True)
    parser.add_argument("--metrics-config")
    chosen = parser.parse_args()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    Path(chosen.sock_name).unlink(missing_ok=True)  # of a worker that was killed
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(_CONNECTED_WITHIN)
        listener.bind(chosen.sock_name)
        listener.listen(1)
        for line in (f"[PID]{os.getpid()}", "Torch worker started."):  # the front end reads, and waits for them
            log.info(line)
        connection, _ = listener.accept()
    with connection:
        connection.settimeout(None)
        try:
            _worker().serve(connection)
        except Exception:  # of any kind: it is told, in TorchServe's words, which the server looks for, and ends us
            log.exception("Backend worker process died.")
            sys.exit(1)


def _worker() -> Worker:
    state, access = os.environ.get("GANCTL_STATE"), os.environ.get("GANCTL_ACCESS_LOG")
    return Worker(Commands(Path(state) if state else None), meter(), AccessLog(Path(access)) if access else None)
