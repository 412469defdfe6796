"""Worker process of the native host: loads the models and answers on the socket that all workers share.

`python -m ganctl.serving.hosts.native.worker SETTINGS` is started by `server.py`; SETTINGS is JSON, see `Settings`.
Environment variables: PROMETHEUS_MULTIPROC_DIR is the folder of the metrics; GANCTL_ACCESS_LOG, the folder of the
access log, is optional.
"""

import asyncio
import ctypes
import itertools
import json
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ganctl.serving.errors import SettingError
from ganctl.serving.hosts.native.access import Access
from ganctl.serving.hosts.native.application import Application
from ganctl.serving.hosts.native.batcher import Batcher, Drawn
from ganctl.serving.hosts.native.certificate import Certificate
from ganctl.serving.hosts.native.connection import READING_SECONDS, Connection
from ganctl.serving.hosts.native.keys import Keys
from ganctl.serving.hosts.native.model import NativeModel
from ganctl.serving.hosts.native.proxies import Proxies
from ganctl.serving.hosts.native.rate_limit import RateLimit
from ganctl.serving.hosts.worker.access_log import AccessLog
from ganctl.serving.hosts.worker.commands import Commands
from ganctl.serving.hosts.worker.metrics import Metrics, create_metrics

if TYPE_CHECKING:
    pass

_TICK_SECONDS, _TICKS_TO_RELOAD = 0.1, 10
_LINGER_SECONDS = 0.5  # in which clients learn that their connection ends, before idle ones are closed
_LAST_ARRIVAL_SECONDS = 2.0  # for a request that arrives during the shutdown
_BACKLOG = 1_024  # connections that wait to be accepted
_SWITCH_SECONDS = 1e-3  # Python's default, 5 ms, would delay small requests while a thread draws a large one
_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Settings of a worker, which the server passes on its command line.

    sockets: file descriptors of the bound sockets: one of the worker's own, and those that all workers share.
    states: the folder of the commands for each model, by the model's name.
    parent: process id of the server; the worker does not outlive it.
    keys: the file of keys; None if requests need none.
    rate_file, rate: the file of the rates, and requests per second for each key; None for no limit.
    origins: those whose pages may read replies.
    proxies: addresses whose header X-Forwarded-For names the client.
    tls_cert, tls_key: the files of the certificate and its key; None for HTTP.
    """

    sockets: list[int]
    states: dict[str, str]
    parent: int
    keys: str | None = None
    rate_file: str | None = None
    rate: float | None = None
    origins: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Reloaded(Protocol):
    """Keys or a certificate, read from a file that may change while the server runs."""

    def reload(self) -> bool: ...


class WorkerServer:
    """Answers until SIGTERM; then lets clients finish."""

    def __init__(self, application: Application, reloaded: Sequence[Reloaded], metrics: Metrics | None) -> None:
        """Prepares the server.

        Args:
            application: answers the requests.
            reloaded: read again once a second.
            metrics: get the number of requests in progress, if there are metrics.
        """
        self._application, self._reloaded, self._metrics = application, reloaded, metrics
        self._connections: set[Connection] = set()

    async def serve(
        self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None, listening: Callable[[], None]
    ) -> None:
        """Listens on bound sockets until SIGTERM or Ctrl-C; calls `listening` when it begins.

        After the signal it refuses new connections, answers requests of open ones with `Connection: close`, and then
        closes idle ones. A client with an idle connection thus has some time to end it by a request, which would be
        lost if the connection was closed at that moment.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        closing = READING_SECONDS if tls is not None else None  # connections have shorter limits of their own
        servers = [
            await loop.create_server(self._connect, sock=each, ssl=tls, backlog=_BACKLOG, ssl_shutdown_timeout=closing)
            for each in sockets
        ]
        listening()
        async with asyncio.TaskGroup() as tasks:  # an error of one ends the worker
            ticks = tasks.create_task(self._tick_forever())
            await stop.wait()
            for server in servers:
                server.close()
            self._application.closing = True
            await asyncio.sleep(_LINGER_SECONDS)
            for connection in self._connections:
                connection.limit_arrival(_LAST_ARRIVAL_SECONDS)
            while self._connections:
                for connection in tuple(self._connections):
                    connection.close_if_idle()
                await asyncio.sleep(_TICK_SECONDS)
            ticks.cancel()

    def _connect(self) -> Connection:
        return Connection(self._application, self._connections)

    async def _tick_forever(self) -> None:
        for tick in itertools.count():
            if self._metrics is not None:
                self._metrics.set_in_progress(self._application.in_progress)
            now = time.monotonic()
            for connection in tuple(self._connections):
                connection.check(now)
            for each in self._reloaded if tick % _TICKS_TO_RELOAD == 0 else ():
                try:
                    each.reload()
                except (SettingError, OSError) as error:  # also ssl.SSLError, of a certificate that is half written
                    log.error("a changed file is not used: %s", error)
            await asyncio.sleep(_TICK_SECONDS)


def _counter(metrics: Metrics | None, model: str) -> Callable[[Drawn], None]:
    """Returns a function that counts a batch of a model that was drawn."""
    batches = metrics.of_model(model) if metrics is not None else None

    def count(batch: Drawn) -> None:
        if batches is not None:
            statuses = [reply.status for reply in batch.replies]
            batches.finish_batch(statuses, batch.observation, batch.seconds, batch.waited)

    return count


def _current(commands: Commands[NativeModel]) -> NativeModel:
    return commands.model


async def _serve(settings: Settings) -> None:
    models = {name: Commands(Path(state), partial(NativeModel, name=name)) for name, state in settings.states.items()}
    metrics = create_metrics(has_queue=True)
    log_folder = os.environ.get("GANCTL_ACCESS_LOG")
    keys = Keys(Path(settings.keys)) if settings.keys else None
    rates = RateLimit(Path(settings.rate_file), settings.rate) if settings.rate_file and settings.rate else None
    executor = ThreadPoolExecutor(1, thread_name_prefix="large")
    batchers = {}
    for name, commands in models.items():
        commands.load()
        batchers[name] = Batcher(partial(_current, commands), executor, _counter(metrics, name))
    application = Application(
        batchers,
        count=metrics.count_refusal if metrics is not None else lambda status: None,
        access=Access(keys, rates, settings.origins),
        access_log=AccessLog(Path(log_folder)) if log_folder else None,
        proxies=Proxies(settings.proxies),
    )
    reloaded: list[Reloaded] = [keys] if keys is not None else []
    certificate = None
    if settings.tls_cert is not None:
        certificate = Certificate(Path(settings.tls_cert), settings.tls_key)
        reloaded.append(certificate)
    if metrics is not None:
        metrics.count_start()
    sockets = [socket.socket(fileno=number) for number in settings.sockets]
    server = WorkerServer(application, reloaded, metrics)

    def follow() -> None:
        for commands in models.values():
            commands.follow()

    await server.serve(sockets, certificate.context if certificate is not None else None, follow)


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
