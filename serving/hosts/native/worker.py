"""Worker process of the native host: loads the models and answers on the socket that all workers share.

`python -m ganctl.serving.hosts.native.worker SETTINGS` is started by `server.py`; SETTINGS is JSON, see `Settings`.
Environment variables: PROMETHEUS_MULTIPROC_DIR is the folder of the metrics; GANCTL_ACCESS_LOG, the folder of the
access log, is optional.
"""

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from ganctl.serving.errors import SettingError
from ganctl.serving.hosts.native.application import Application
from ganctl.serving.hosts.native.batcher import Batcher
from ganctl.serving.hosts.native.keys import Keys
from ganctl.serving.hosts.native.model import NativeModel
from ganctl.serving.hosts.native.protocol import Protocol
from ganctl.serving.hosts.worker.access_log import AccessLog
from ganctl.serving.hosts.worker.commands import Commands
from ganctl.serving.hosts.worker.metrics import Metrics, create_metrics

if TYPE_CHECKING:
    from ganctl.serving.handler.replies import Reply
    from ganctl.serving.handler.service import Observation

_IDLE_SECONDS = 75  # until a connection without requests is closed
_LINGER_SECONDS = 0.5  # in which clients learn that their connection ends, before idle ones are closed
_BACKLOG = 1_024  # connections that wait to be accepted
_SWITCH_SECONDS = 1e-3  # Python's default, 5 ms, would delay small requests while a thread draws a large one
_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know.

    socket: file descriptor of the bound socket.
    states: the folder of the commands for each model, by the model's name.
    parent: process id of the server; the worker does not outlive it.
    keys: the file of keys; None if requests need none.
    """

    socket: int
    states: dict[str, str]
    parent: int
    keys: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class WorkerServer(uvicorn.Server):
    """Answers until SIGTERM; then lets clients finish."""

    def __init__(
        self, config: uvicorn.Config, application: Application, keys: Keys | None, metrics: Metrics | None
    ) -> None:
        super().__init__(config)
        self._application, self._keys, self._metrics = application, keys, metrics

    async def on_tick(self, counter: int) -> bool:
        """Runs ten times a second."""
        if self._metrics is not None:
            self._metrics.set_in_progress(len(self.server_state.tasks))
        if self._keys is not None and counter % 10 == 0:
            try:
                self._keys.reload()
            except SettingError as error:
                log.warning("the keys stay as they were: %s", error)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuses new connections, answers requests of open ones with `Connection: close`, and then closes idle ones.

        A client with an idle connection thus has some time to end it by a request, which would be lost if the
        connection was closed at that moment.
        """
        for server in self.servers:
            server.close()
        self._application.closing = True
        await asyncio.sleep(_LINGER_SECONDS)
        await super().shutdown(sockets)


def _counter(metrics: Metrics | None, model: str) -> "Callable[[Sequence[Reply], Observation, float], None]":
    """Returns a function that counts an answered batch of a model."""
    batches = metrics.of_model(model) if metrics is not None else None

    def count(replies: "Sequence[Reply]", observation: "Observation", seconds: float) -> None:
        if batches is not None:
            batches.finish_batch([reply.status for reply in replies], observation, seconds)

    return count


def _current(commands: Commands[NativeModel]) -> NativeModel:
    return commands.model


async def _serve(settings: Settings) -> None:
    models = {name: Commands(Path(state), partial(NativeModel, name=name)) for name, state in settings.states.items()}
    metrics = create_metrics()
    log_folder = os.environ.get("GANCTL_ACCESS_LOG")
    keys = Keys(Path(settings.keys)) if settings.keys else None
    executor = ThreadPoolExecutor(1, thread_name_prefix="large")
    batchers = {}
    for name, commands in models.items():
        commands.load()
        batchers[name] = Batcher(partial(_current, commands), executor, _counter(metrics, name))
    application = Application(
        batchers,
        count=metrics.count_refusal if metrics is not None else lambda status: None,
        keys=keys,
        access_log=AccessLog(Path(log_folder)) if log_folder else None,
    )
    config = uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        lifespan="off",
        loop="uvloop",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        backlog=_BACKLOG,
    )
    if metrics is not None:
        metrics.count_start()
    await WorkerServer(config, application, keys, metrics).serve([socket.socket(fileno=settings.socket)])


def main() -> None:
    """Runs a worker until SIGTERM."""
    settings = Settings(**json.loads(sys.argv[1]))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != settings.parent:
        sys.exit("the server has ended")
    logging.basicConfig(format="%(message)s", level=logging.ERROR)  # a warning for each faulty request would fill disks
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # when the terminal closes, the server drains
    sys.setswitchinterval(_SWITCH_SECONDS)
    import uvloop

    uvloop.run(_serve(settings))


if __name__ == "__main__":
    main()
