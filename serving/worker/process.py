"""The worker's main loop: TorchServe's front end starts it, connects to it, and sends a model to load and then batches.

It stands in the place of TorchServe's `model_service_worker.py`, and runs any handler with a `handle` of its own that
asks no more of its context than `Context` has.
"""

import argparse
import importlib
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .protocol import Incoming, Incomplete, Load, Outgoing, loaded, read_message, write_batch

_CONNECTED_WITHIN = 30.0  # seconds
_RECEIVE = 1 << 20

log = logging.getLogger(__name__)


class Context:
    """What a handler is told of its model and of a batch, and what it tells of its replies, as TorchServe's context."""

    def __init__(self, folder: Path) -> None:
        config = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))
        self.model_yaml_config: dict[str, Any] = config
        self.system_properties: dict[str, Any] = {"model_dir": str(folder)}
        self.begin(())

    def begin(self, batch: Sequence[Incoming]) -> None:
        self._requests = batch
        self.statuses = [(200, "OK")] * len(batch)
        self.headers: list[dict[str, str]] = [{} for _ in batch]

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        return self._requests[idx].headers

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.statuses[idx] = code, phrase

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.headers[idx][key] = value


class Worker:
    """A model's handler at the end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def run(self) -> None:
        """Answers until the front end hangs up."""
        data = b""
        while received := self._connection.recv(_RECEIVE):
            data = data + received if data else received
            try:
                message = read_message(data)
            except Incomplete:
                continue
            data = b""
            self._connection.sendall(self._load(message) if isinstance(message, Load) else self._answer(message))

    def _load(self, order: Load) -> bytes:
        folder = Path(order.folder)
        sys.path.insert(0, str(folder))
        self._context = Context(folder)
        self._handle = importlib.import_module(Path(order.handler).stem).handle
        self._handle(None, self._context)
        return loaded(200, "loaded")

    def _answer(self, batch: list[Incoming]) -> bytes:
        context = self._context
        context.begin(batch)
        bodies = self._handle([request.inputs for request in batch], context)
        return write_batch(
            Outgoing(request.identity, *status, headers, body)
            for request, status, headers, body in zip(batch, context.statuses, context.headers, bodies, strict=True)
        )


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
            Worker(connection).run()
        except Exception:
            log.exception("Backend worker process died.")  # in TorchServe's words, which the server looks for
            sys.exit(1)
