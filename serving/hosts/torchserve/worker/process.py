"""Main loop of a worker: TorchServe's front end starts it, connects to it, and sends one model to load, then batches.

It replaces TorchServe's `model_service_worker.py`. Environment variables: GANCTL_STATE is the folder of the server's
commands (`commands.py`), PROMETHEUS_MULTIPROC_DIR the folder of the metrics. GANCTL_ACCESS_LOG, the folder of the
access log, is optional.
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

from ganctl.serving.handler.model import DEFAULT_NAME
from ganctl.serving.handler.problem import MEDIA_TYPE, problem
from ganctl.serving.hosts.torchserve.worker.protocol import LOADED, Incomplete, read_message, write_batch
from ganctl.serving.hosts.worker.access_log import AccessLog
from ganctl.serving.hosts.worker.commands import Commands
from ganctl.serving.hosts.worker.correlation import correlation_headers
from ganctl.serving.hosts.worker.messages import PredictReply, PredictRequest
from ganctl.serving.hosts.worker.metrics import create_metrics
from ganctl.serving.hosts.worker.model_host import ModelHost

_CONNECT_SECONDS = 30.0
_RECEIVE_BYTES = 1 << 20
_DRAINING = HTTPStatus.SERVICE_UNAVAILABLE  # the front end closes the connection after it
_DRAINING_BODY = problem(_DRAINING, "The server is stopping. Retry, or use another server.")

log = logging.getLogger(__name__)


class Worker:
    """Answers the front end's messages."""

    def __init__(self) -> None:
        self._commands = Commands(Path(os.environ["GANCTL_STATE"]), ModelHost)
        self._metrics = create_metrics(has_queue=False)
        self._batches = self._metrics.of_model(DEFAULT_NAME) if self._metrics is not None else None
        folder = os.environ.get("GANCTL_ACCESS_LOG")
        self._access_log = AccessLog(Path(folder)) if folder else None

    def serve(self, connection: socket.socket) -> None:
        """Answers until the front end closes the connection."""
        data = b""
        while received := connection.recv(_RECEIVE_BYTES):
            data += received
            try:
                batch = read_message(data)
            except Incomplete:
                continue
            data = b""
            if batch is None:
                self._commands.load()
                self._commands.follow()
                if self._metrics is not None:
                    self._metrics.count_start()
                connection.sendall(LOADED)
            else:
                self._answer(connection, batch)

    def _answer(self, connection: socket.socket, batch: Sequence[PredictRequest]) -> None:
        """Answers a batch, counts it and logs it; while draining, each reply is a 503."""
        if self._metrics is not None:
            self._metrics.start_batch()
        started = time.perf_counter()
        if self._commands.draining:
            replies, observation = [_draining_reply(request) for request in batch], None
        else:
            replies, observation = self._commands.model.answer(batch)
        for request, reply in zip(batch, replies, strict=True):
            reply.headers.update(correlation_headers(request.headers))
        connection.sendall(write_batch(replies))
        seconds = time.perf_counter() - started
        if self._batches is not None:
            self._batches.finish_batch([reply.status for reply in replies], observation, seconds)
        if self._access_log is not None:
            self._access_log.write(batch, replies, seconds)


def _draining_reply(request: PredictRequest) -> PredictReply:
    headers = {"content-type": MEDIA_TYPE, "Retry-After": "1"}
    return PredictReply(request.identity, _DRAINING, _DRAINING.phrase, headers, _DRAINING_BODY)


def main() -> None:
    """Runs a worker with the command line that TorchServe's front end gives it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sock-name", required=True)
    arguments, _ = parser.parse_known_args()
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
            Worker().serve(connection)
        except Exception:  # any failure must end the worker with TorchServe's message, which the server looks for
            log.exception("Backend worker process died.")
            sys.exit(1)
