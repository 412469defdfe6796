"""A TorchServe's life: started with settings of ours, watched until it answers, drained, ended without remains."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

import httpx

from ganctl.files import naming
from ganctl.serving.addresses import in_url, is_loopback, reachable, resolve
from ganctl.serving.archive.mar import MODEL_NAME
from ganctl.serving.client.connections import direct
from ganctl.serving.deploy.control_socket import Control, Message
from ganctl.serving.errors import PackageError, ServerError
from ganctl.serving.hosts.torchserve.config import (
    METRICS,
    config_properties,
    environment,
    hosts,
    java_options,
    log4j2,
    page_is_wanted,
)
from ganctl.serving.hosts.torchserve.draining import drain
from ganctl.serving.hosts.torchserve.java import find_java
from ganctl.serving.hosts.torchserve.launch import launch
from ganctl.serving.hosts.torchserve.logs import Logs
from ganctl.serving.hosts.torchserve.management import Management, front_end
from ganctl.serving.hosts.torchserve.metrics import Metrics
from ganctl.serving.hosts.torchserve.ports import Ports, free_ports
from ganctl.serving.hosts.torchserve.private_folder import PrivateFolder
from ganctl.serving.hosts.torchserve.versions import Versions
from ganctl.serving.hosts.torchserve.workers import default_workers

_STOP_SECONDS = 10.0


class Server:
    """Serves one archive: `with Server(mar) as server: ...` has it ready at `server.url` and leaves nothing behind.

    port: the inference port, the four after it being management, metrics and gRPC; 0 picks five free ones.
    workers: processes that draw; None takes one for each core, at most eight.
    auth: "token" has TorchServe demand the token in `token_file`; None means "none" on loopback, "token" elsewhere.
    page: whether a browser gets the archive's page; the variable GANCTL_PAGE=off has none anyway.
    sha256: the archive's, in hexadecimal digits, where it is known from elsewhere; another archive is refused.
    access_log: the folder for a line of JSON about every request; None: there is none.

    Start it from a thread that lives as long as the server: on Linux the kernel ends Java together with that thread, so
    that not even a SIGKILL leaves it running.
    """

    def __init__(
        self,
        mar: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        workers: int | None = None,
        auth: Literal["token", "none"] | None = None,
        page: bool = True,
        sha256: str | None = None,
        access_log: Path | None = None,
        startup_timeout: float = 120.0,
    ) -> None:
        self.mar = mar.absolute()
        self.address = resolve(host)
        self.workers = workers or default_workers()
        self.auth = auth or ("none" if is_loopback(self.address) else "token")
        self.page = page and page_is_wanted(os.environ)
        self.access_log = access_log
        self.token_file: Path | None = None
        self._sha256 = sha256
        self._wanted_port = port
        self._startup_timeout = startup_timeout
        self._folder: PrivateFolder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: Ports | None = None
        self._versions: Versions | None = None
        self._metrics: Metrics | None = None
        self._management: Management | None = None
        self._control: Control | None = None
        self._drained = False

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server has a pid once started"
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://{in_url(reachable(self.address))}:{self._ready_ports.inference}"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self._ready_ports.management}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self._ready_ports.metrics}/metrics"

    @property
    def model_version(self) -> str:
        """Of the version that is served now."""
        assert self._versions is not None, "the server has a version once started"
        assert self._versions.served is not None, "the server has a version once started"
        return self._versions.served.model_version

    @property
    def _logs(self) -> Logs:
        assert self._folder is not None, "the server has logs once started"
        return Logs(self._folder.path / "logs")

    @property
    def _ready_ports(self) -> Ports:
        assert self._ports is not None, "the server has ports once started"
        return self._ports

    def start(self) -> None:
        """Starts TorchServe and returns when all workers are ready and one image was drawn.

        Raises ServerError (Java absent, a port in use, an archive that cannot be served, a worker that dies) with
        nothing left running.
        """
        assert self._process is None, "a server is started once"
        java = find_java()
        self._ports = free_ports(self.address, self._wanted_port)
        try:
            self._launch(java)
            self._wait_until_ready()
            self._open_beside()
        except BaseException as error:
            if isinstance(error, ServerError) and self._process is not None and (cause := self._logs.system_error()):
                error = cause  # Java's own words are long
            self.stop()
            raise error
        finally:
            self._ports.release()

    def wait(self) -> None:
        """Blocks for as long as the server runs. Raises ServerError when it ends by itself."""
        assert self._process is not None, "a server is waited for once started"
        status = self._process.wait()
        raise ServerError(f"TorchServe ended by itself with status {status}.{self._logs.told()}")

    def deploy(self, mar: Path, sha256: str | None = None) -> Message:
        """Serves another archive, with no request waiting or failing. Gives `model_version` and `previous`.

        Raises PackageError or DeployError where it is not fit to be served; then nothing has changed.
        """
        assert self._versions is not None, "a server has versions once started"
        before = self.model_version
        return {"model_version": self._versions.deploy(mar, sha256).model_version, "previous": before}

    def roll_back(self) -> Message:
        """Serves the version before again; tells as `deploy`. Raises DeployError where there is none."""
        assert self._versions is not None, "a server has versions once started"
        before = self.model_version
        return {"model_version": self._versions.roll_back().model_version, "previous": before}

    def drain(self, seconds: float = 10.0, hurry: threading.Event | None = None) -> bool:
        """Takes no new connections, and waits until all requests are answered. Gives whether they were.

        seconds: the longest that it may take; hurry: set by who cannot wait as long."""
        assert self._folder is not None, "a server is drained while it runs"
        assert self._metrics is not None, "a server is drained while it runs"
        self._renew_key()
        self._drained = drain(
            self.pid,
            self.url,
            self._authorization("inference"),
            self._folder.path / "state",
            busy=self._metrics.is_a_worker_busy,
            seconds=seconds,
            hurry=hurry or threading.Event(),
        )
        return self._drained

    def stop(self) -> None:
        """Ends the server, its workers and its folder; bounded, and harmless when repeated."""
        for answering in (self._control, self._management, self._metrics):
            if answering is not None:
                answering.close()
        self._control = self._management = self._metrics = None
        process, self._process = self._process, None
        if process is not None:
            if not self._drained:  # else nothing is in its hands, and its own end would take two seconds
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_SECONDS)
            # Workers that are still importing do not notice that Java has gone; they are of its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.delete()
        self.token_file = None

    def _launch(self, java: Path) -> None:
        assert self._ports is not None
        folder = self._folder = PrivateFolder()
        passed = environment(os.environ, folder.alias, page=self.page, access_log=self.access_log)
        self._versions = Versions(folder.path, passed)
        try:
            self._versions.begin(self.mar, self._sha256)
        except PackageError as error:
            raise ServerError(f"this archive cannot be served: {error}") from error
        token = self.auth == "token"
        files = {
            "config.properties": config_properties(folder.alias, self.address, self._ports, self.workers, token),
            "hosts": hosts(self.address),
            "log4j2.xml": log4j2(folder.alias),
            "metrics.yaml": METRICS,
        }
        for name, text in files.items():
            with naming(folder.path / name):
                (folder.path / name).write_text(text, encoding="utf-8")
        if self.access_log is not None:
            self.access_log.mkdir(parents=True, exist_ok=True)
        self._process = launch(java, folder, passed, java_options(folder.alias, self.address))
        if token:
            self.token_file = folder.path / "key_file.json"  # TorchServe writes it to its working folder

    def _open_beside(self) -> None:
        """What this process itself answers: management, metrics, and orders of `ganctl deploy`."""
        assert self._folder is not None
        ports = self._ready_ports
        try:
            self._metrics = Metrics(
                ports.metrics,
                counters=self._folder.path / "metrics",
                front_end=self._folder.alias / "metrics.sock",
                workers=self.workers,
                model=lambda: self.model_version,
            )
            self._management = Management(ports.management, self._folder.alias / "management.sock")
            self._control = Control(ports.inference, self._obey)
        except OSError as error:  # taken since they were tried
            told = f"--port {self._wanted_port}: {ports.management}, {ports.metrics} or the name for `ganctl deploy`"
            raise ServerError(f"{told} cannot be used ({error}). Give another --port.") from error

    def _obey(self, order: Message) -> Message:
        if order.get("rollback"):
            return self.roll_back()
        return self.deploy(Path(order["mar"]), order.get("sha256"))

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        assert self._folder is not None
        deadline = time.monotonic() + self._startup_timeout
        with front_end(self._folder.alias / "management.sock") as management:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise ServerError(f"TorchServe ended while starting.{self._logs.told()}")
                if self._logs.tell_of_a_death():
                    self._logs.wait_for_traceback()
                    raise ServerError(f"a worker could not load the model.{self._logs.told()}")
                if self._workers_ready(management):
                    return self._ask_for_one_image()
                time.sleep(0.1)
        raise ServerError(f"TorchServe was not ready after {self._startup_timeout:g} s.{self._logs.told()}")

    def _workers_ready(self, management: httpx.Client) -> bool:
        try:
            reply = management.get(f"/models/{MODEL_NAME}", headers=self._authorization("management"))
        except (httpx.TransportError, OSError, ValueError):
            return False  # not listening yet, or the token file is not there or not whole yet
        if reply.status_code == 404:  # it listens only after it has tried to load the archive
            raise ServerError(f"TorchServe refused the archive {self.mar}.{self._logs.told()}")
        if reply.status_code != 200:
            raise ServerError(f"TorchServe's management answered {reply.status_code}: {reply.text[:500]}")
        workers = reply.json()[0]["workers"]
        return len(workers) >= self.workers and all(worker["status"] == "READY" for worker in workers)

    def _ask_for_one_image(self) -> None:
        headers = self._authorization("inference")
        try:
            with direct(base_url=self.url, timeout=30.0) as client:
                reply = client.get(f"/predictions/{MODEL_NAME}", headers=headers)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ServerError(
                f"{self.url}: the first request got no answer ({reason}). Check that this machine can reach its own"
                f" address ({self.address}).{self._logs.told()}"
            ) from error
        if reply.status_code != 200 or reply.headers.get("content-type") != "image/png":
            raise ServerError(
                f"the first request was answered {reply.status_code}: {reply.text[:500]}{self._logs.told()}"
            )

    def _renew_key(self) -> None:
        """TorchServe's keys end after an hour: whoever asks then needs a new one."""
        assert self._folder is not None
        if self.token_file is None:
            return
        ends = json.loads(self.token_file.read_text("utf-8"))["inference"]["expiration time"]
        if datetime.fromisoformat(ends) <= datetime.now(UTC):
            with front_end(self._folder.alias / "management.sock") as management:
                management.get("/token", params={"type": "inference"}, headers=self._authorization("API"))

    def _authorization(self, kind: Literal["management", "inference", "API"]) -> dict[str, str]:
        if self.token_file is None:
            return {}
        key = json.loads(self.token_file.read_text("utf-8"))[kind]["key"]
        return {"Authorization": f"Bearer {key}"}
