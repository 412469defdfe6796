"""Life cycle of a TorchServe server: start, wait until ready, deploy, drain, stop without leaving anything behind."""

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

from ganctl.files import add_path_to_errors
from ganctl.serving.addresses import connect_address, is_loopback, resolve, url_host
from ganctl.serving.archive.mar import MODEL_NAME
from ganctl.serving.client.connections import local_client
from ganctl.serving.deploy.control_socket import ControlSocket, Message
from ganctl.serving.errors import PackageError, ServerError
from ganctl.serving.hosts.torchserve.config import (
    METRICS,
    config_properties,
    environment,
    hosts,
    java_options,
    log4j2,
    page_enabled,
)
from ganctl.serving.hosts.torchserve.draining import drain
from ganctl.serving.hosts.torchserve.java import find_java
from ganctl.serving.hosts.torchserve.launch import launch
from ganctl.serving.hosts.torchserve.logs import Logs
from ganctl.serving.hosts.torchserve.management import Management, front_end_client
from ganctl.serving.hosts.torchserve.metrics import MetricsEndpoint
from ganctl.serving.hosts.torchserve.ports import Ports, free_ports
from ganctl.serving.hosts.torchserve.private_folder import PrivateFolder
from ganctl.serving.hosts.torchserve.versions import Versions
from ganctl.serving.hosts.torchserve.workers import default_workers

_STOP_SECONDS = 10.0


class Server:
    """Serves one archive: inside `with Server(mar) as server: ...` it answers at `server.url`.

    On Linux, start it from a thread that lives as long as the server: the kernel kills Java when that thread ends, so
    that Java does not survive a SIGKILL of this process.

    Args:
        mar: the archive.
        host: the address to listen on.
        port: the inference port; the next four are for management, metrics and gRPC. 0 chooses five free ports.
        workers: number of worker processes; None for one per core, at most eight.
        auth: "token" makes TorchServe demand the token in `token_file`; None is "none" on loopback, else "token".
        page: whether a browser gets the archive's page; the variable GANCTL_PAGE=off disables it, too.
        sha256: the expected digest of the archive, in hexadecimal digits; None to accept any archive.
        access_log: folder for the access log (one line of JSON per request); None for no access log.
        startup_timeout: seconds until all workers must be ready.
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
        self.page = page and page_enabled(os.environ)
        self.access_log = access_log
        self.token_file: Path | None = None
        self._sha256 = sha256
        self._requested_port = port
        self._startup_timeout = startup_timeout
        self.folder: PrivateFolder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: Ports | None = None
        self._versions: Versions | None = None
        self._metrics: MetricsEndpoint | None = None
        self._management: Management | None = None
        self._control: ControlSocket | None = None
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
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://{url_host(connect_address(self.address))}:{self._ready_ports.inference}"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self._ready_ports.management}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self._ready_ports.metrics}/metrics"

    @property
    def model_version(self) -> str:
        """The version that is served now."""
        assert self._versions is not None, "not started"
        assert self._versions.active is not None, "not started"
        return self._versions.active.model_version

    @property
    def _logs(self) -> Logs:
        assert self.folder is not None, "not started"
        return Logs(self.folder.path / "logs")

    @property
    def _ready_ports(self) -> Ports:
        assert self._ports is not None, "not started"
        return self._ports

    def start(self) -> None:
        """Starts TorchServe and returns when all workers are ready and one request was answered with an image.

        Raises:
            ServerError: Java is absent, a port is in use, the archive cannot be served, or a worker died. Nothing is
                left running.
        """
        assert self._process is None, "started already"
        java = find_java()
        self._ports = free_ports(self.address, self._requested_port)
        try:
            self._launch(java)
            self._wait_until_ready()
            self._open_endpoints()
        except BaseException as error:
            if isinstance(error, ServerError) and self._process is not None and (cause := self._logs.system_error()):
                error = cause  # shorter than Java's message
            self.stop()
            raise error
        finally:
            self._ports.release()

    def wait(self) -> None:
        """Blocks while TorchServe runs. Raises ServerError when it exits without `stop`."""
        assert self._process is not None, "not started"
        status = self._process.wait()
        raise ServerError(f"TorchServe exited unexpectedly with status {status}.{self._logs.message()}")

    def deploy(self, mar: Path, sha256: str | None = None) -> Message:
        """Serves another archive from now on; no request waits or fails.

        Returns:
            `model_version` and `previous`, the version that was served before.

        Raises:
            PackageError, DeployError: the archive cannot be served; the old version stays active.
        """
        assert self._versions is not None, "not started"
        before = self.model_version
        return {"model_version": self._versions.deploy(mar, sha256).model_version, "previous": before}

    def roll_back(self) -> Message:
        """Serves the previous version again; returns the same as `deploy`.

        Raises:
            DeployError: there is no previous version.
        """
        assert self._versions is not None, "not started"
        before = self.model_version
        return {"model_version": self._versions.roll_back().model_version, "previous": before}

    def drain(self, seconds: float = 10.0, abort: threading.Event | None = None) -> bool:
        """Refuses new connections and waits for all replies; returns whether all requests were answered in time.

        Args:
            seconds: the time limit.
            abort: ends the wait at once when it is set.
        """
        assert self.folder is not None, "not started"
        assert self._metrics is not None, "not started"
        self._renew_token()
        self._drained = drain(
            self.pid,
            self.url,
            self.authorization("inference"),
            self.folder.path / "state",
            busy=self._metrics.any_worker_busy,
            seconds=seconds,
            abort=abort or threading.Event(),
        )
        return self._drained

    def stop(self) -> None:
        """Ends TorchServe and its workers and deletes the private folder, in bounded time; safe to call again."""
        for endpoint in (self._control, self._management, self._metrics):
            if endpoint is not None:
                endpoint.close()
        self._control = self._management = self._metrics = None
        process, self._process = self._process, None
        if process is not None:
            if not self._drained:  # a drained server has no request left; its orderly shutdown takes two seconds
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_SECONDS)
            # A worker that is still importing does not notice that Java has exited. It is in Java's process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        folder, self.folder = self.folder, None
        if folder is not None:
            folder.delete()
        self.token_file = None

    def _launch(self, java: Path) -> None:
        assert self._ports is not None
        folder = self.folder = PrivateFolder()
        variables = environment(os.environ, folder.alias, page=self.page, access_log=self.access_log)
        self._versions = Versions(folder.path, variables)
        try:
            self._versions.start(self.mar, self._sha256)
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
            with add_path_to_errors(folder.path / name):
                (folder.path / name).write_text(text, encoding="utf-8")
        if self.access_log is not None:
            self.access_log.mkdir(parents=True, exist_ok=True)
        self._process = launch(java, folder, variables, java_options(folder.alias, self.address))
        if token:
            self.token_file = folder.path / "key_file.json"  # TorchServe writes it to its working directory

    def _open_endpoints(self) -> None:
        """Opens the endpoints of this process: metrics, management, and the control socket of `ganctl deploy`."""
        assert self.folder is not None
        ports = self._ready_ports
        try:
            self._metrics = MetricsEndpoint(
                ports.metrics,
                counters=self.folder.path / "metrics",
                front_end=self.folder.alias / "metrics.sock",
                workers=self.workers,
                model=lambda: self.model_version,
            )
            self._management = Management(ports.management, self.folder.alias / "management.sock")
            self._control = ControlSocket(ports.inference, self._handle)
        except OSError as error:  # in use since the ports were checked
            names = f"{ports.management}, {ports.metrics} or the control socket of `ganctl deploy`"
            raise ServerError(
                f"--port {self._requested_port}: {names} cannot be used ({error}). Give another --port."
            ) from error

    def _handle(self, command: Message) -> Message:
        if command.get("rollback"):
            return self.roll_back()
        return self.deploy(Path(command["mar"]), command.get("sha256"))

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        assert self.folder is not None
        deadline = time.monotonic() + self._startup_timeout
        with front_end_client(self.folder.alias / "management.sock") as management:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise ServerError(f"TorchServe ended while starting.{self._logs.message()}")
                if self._logs.worker_died():
                    self._logs.wait_for_traceback()
                    raise ServerError(f"a worker could not load the model.{self._logs.message()}")
                if self._workers_ready(management):
                    return self._check_first_request()
                time.sleep(0.1)
        raise ServerError(f"TorchServe was not ready after {self._startup_timeout:g} s.{self._logs.message()}")

    def _workers_ready(self, management: httpx.Client) -> bool:
        try:
            reply = management.get(f"/models/{MODEL_NAME}", headers=self.authorization("management"))
        except (httpx.TransportError, OSError, ValueError):
            return False  # TorchServe does not listen yet, or the token file is absent or incomplete
        if reply.status_code == 404:  # TorchServe listens only after it has tried to load the archive
            raise ServerError(f"TorchServe refused the archive {self.mar}.{self._logs.message()}")
        if reply.status_code != 200:
            raise ServerError(
                f"TorchServe's management API: found status {reply.status_code} ({reply.text[:500]}), expected 200."
            )
        workers = reply.json()[0]["workers"]
        return len(workers) >= self.workers and all(worker["status"] == "READY" for worker in workers)

    def _check_first_request(self) -> None:
        headers = self.authorization("inference")
        try:
            with local_client(base_url=self.url, timeout=30.0) as client:
                reply = client.get(f"/predictions/{MODEL_NAME}", headers=headers)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ServerError(
                f"{self.url}: the first request got no answer ({reason}). Check that this machine can reach its own"
                f" address ({self.address}).{self._logs.message()}"
            ) from error
        if reply.status_code != 200 or reply.headers.get("content-type") != "image/png":
            raise ServerError(
                f"the first request: found status {reply.status_code} ({reply.text[:500]}), expected 200 and a PNG."
                f"{self._logs.message()}"
            )

    def _renew_token(self) -> None:
        """Renews the inference token if it has expired: TorchServe's tokens are valid for an hour."""
        assert self.folder is not None
        if self.token_file is None:
            return
        expiry = json.loads(self.token_file.read_text("utf-8"))["inference"]["expiration time"]
        if datetime.fromisoformat(expiry) <= datetime.now(UTC):
            with front_end_client(self.folder.alias / "management.sock") as management:
                management.get("/token", params={"type": "inference"}, headers=self.authorization("API"))

    def authorization(self, kind: Literal["management", "inference", "API"]) -> dict[str, str]:
        if self.token_file is None:
            return {}
        key = json.loads(self.token_file.read_text("utf-8"))[kind]["key"]
        return {"Authorization": f"Bearer {key}"}
