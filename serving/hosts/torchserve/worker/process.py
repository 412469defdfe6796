"""Main loop of a worker: TorchServe's front end starts it, connects to it, and sends one model to load, then batches.

It replaces TorchServe's `model_service_worker.py`. Environment variables: GANCTL_STATE is the folder of the server's
commands (`commands.py`), PROMETHEUS_MULTIPROC_DIR the folder of the metrics, GANCTL_ACCESS_LOG that of the access log.
"""

import argparse
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from ganctl.serving.handler.problem import MEDIA_TYPE, problem
from ganctl.serving.hosts.torchserve.worker.access_log import AccessLog
from ganctl.serving.hosts.torchserve.worker.commands import Commands
from ganctl.serving.hosts.torchserve.worker.correlation import correlation_headers
from ganctl.serving.hosts.torchserve.worker.metrics import Metrics, Observation, create_metrics
from ganctl.serving.hosts.torchserve.worker.protocol import (
    Incoming,
    Incomplete,
    Load,
    Outgoing,
    read_message,
    write_batch,
    write_loaded,
)

_CONNECT_SECONDS = 30.0
_RECEIVE_BYTES = 1 << 20
_DRAINING = HTTPStatus.SERVICE_UNAVAILABLE  # the front end closes the connection after it
_DRAINING_BODY = problem(_DRAINING, "The server is stopping. Retry, or use another server.")

log = logging.getLogger(__name__)


class Worker:
    """Answers the front end's messages.

    Args:
        commands: the active model and the draining flag.
        metrics: None to count nothing.
        access_log: None to log no request.
    """

    def __init__(self, commands: Commands, metrics: Metrics | None = None, access_log: AccessLog | None = None) -> None:
        self._commands = commands
        self._metrics = metrics
        self._access_log = access_log

    def serve(self, connection: socket.socket) -> None:
        """Answers until the front end closes the connection."""
        data = b""
        while received := connection.recv(_RECEIVE_BYTES):
            data = data + received if data else received
            try:
                message = read_message(data)
            except Incomplete:
                continue
            data = b""
            if isinstance(message, Load):
                connection.sendall(self._load(message))
                continue
            if self._metrics is not None:
                self._metrics.start_batch()
            started = time.perf_counter()
            replies, observation = self.answer(message)
            connection.sendall(write_batch(replies))
            self._record(message, replies, observation, time.perf_counter() - started)

    def _load(self, message: Load) -> bytes:
        self._commands.load(Path(message.folder), message.handler)
        if self._metrics is not None:
            self._metrics.count_start()
        return write_loaded(200, "loaded")

    def answer(self, batch: Sequence[Incoming]) -> tuple[list[Outgoing], Observation | None]:
        """Returns the replies to a batch, and the handler's measurements; while draining, each reply is a 503."""
        replies: list[Outgoing]
        observation: Observation | None
        if self._commands.draining:
            replies, observation = [_draining_reply(request) for request in batch], None
        else:
            replies, observation = self._commands.model.answer(batch)
        for request, reply in zip(batch, replies, strict=True):
            reply.headers.update(correlation_headers(request.headers))
        return replies, observation

    def _record(
        self, batch: Sequence[Incoming], replies: Sequence[Outgoing], observation: Observation | None, seconds: float
    ) -> None:
        if self._metrics is not None:
            self._metrics.finish_batch(replies, observation, seconds)
        if self._access_log is not None:
            self._access_log.write(batch, replies, seconds)


def _draining_reply(request: Incoming) -> Outgoing:
    headers = {"content-type": MEDIA_TYPE, "Retry-After": "1"}
    return Outgoing(request.identity, _DRAINING, _DRAINING.phrase, headers, _DRAINING_BODY)


def main() -> None:
    """Runs a worker with the command line that TorchServe's front end gives it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sock-type", choices=["unix"], required=True)
    parser.add_argument("--sock-name", required=True)
    parser.add_argument("--metrics-config")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    Path(arguments.sock_name).unlink(missing_ok=True)  # left by a worker that was killed
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(_CONNECT_SECONDS)
        listener.bind(arguments.sock_name)
        listener.listen(1)
        for line in (f"[PID]{os.getpid()}", "Torch worker started."):  # the front end waits for these lines
            log.info(line)
        connection, _ = listener.accept()
    with connection:
        connection.settimeout(None)
        try:
            _create_worker().serve(connection)
        except Exception:  # any failure must end the worker with TorchServe's message, which the server looks for
            log.exception("Backend worker process died.")
            sys.exit(1)


def _create_worker() -> Worker:
    state, access_log = os.environ.get("GANCTL_STATE"), os.environ.get("GANCTL_ACCESS_LOG")
    return Worker(
        Commands(Path(state) if state else None),
        create_metrics(),
        AccessLog(Path(access_log)) if access_log else None,
    )
