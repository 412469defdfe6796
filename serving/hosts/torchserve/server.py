"""Life cycle of a TorchServe server: start, wait until ready, deploy, drain, stop without leaving anything behind."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import httpx

from ganctl.files import add_path_to_errors
from ganctl.serving.addresses import connect_address, is_loopback, resolve, url_host
from ganctl.serving.archive.mar import MODEL_NAME
from ganctl.serving.client.connections import local_client
from ganctl.serving.deploy.control_socket import ControlSocket, Message
from ganctl.serving.errors import DeployError, PackageError, ServerError, SettingError
from ganctl.serving.handler.page import page_enabled
from ganctl.serving.hosts.metrics import MetricsEndpoint
from ganctl.serving.hosts.torchserve.config import METRICS, config_properties, environment, hosts, log4j2
from ganctl.serving.hosts.torchserve.draining import drain
from ganctl.serving.hosts.torchserve.java import find_java
from ganctl.serving.hosts.torchserve.launch import launch
from ganctl.serving.hosts.torchserve.logs import Logs
from ganctl.serving.hosts.torchserve.management import front_end_client, front_end_metrics, open_management
from ganctl.serving.hosts.torchserve.ports import reserve_ports
from ganctl.serving.hosts.torchserve.private_folder import private_folder
from ganctl.serving.hosts.versions import Versions
from ganctl.serving.hosts.workers import default_workers

_START_SECONDS, _STOP_SECONDS = 120.0, 10.0


class Server:
    """Serves one archive: inside `with Server(mar) as server: ...` it answers at `server.url`.

    Start it from a thread that lives as long as the server: the kernel kills Java when that thread ends, so that Java
    does not survive a SIGKILL of this process.

    Args:
        mar: the archive.
        host: the address to listen on.
        port: the inference port; the next four are for management, metrics and gRPC. 0 chooses five free ports.
        metrics_host: the address of the metrics; None for loopback.
        workers: number of worker processes; None for one per core, at most eight.
        auth: "token" makes TorchServe demand the token in `token_file`; None is "none" on loopback, else "token".
        page: whether a browser gets the archive's page; the variable GANCTL_PAGE=off disables it, too.
        sha256: the expected digest of the archive, in hexadecimal digits; None to accept any archive.
        access_log: folder for the access log (one line of JSON per request); None for no access log.
    """

    keys_expire = True

    def __init__(
        self,
        mar: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        metrics_host: str | None = None,
        workers: int | None = None,
        auth: Literal["token", "none"] | None = None,
        page: bool = True,
        sha256: str | None = None,
        access_log: Path | None = None,
    ) -> None:
        self.address = resolve(host)
        self._metrics_address = resolve(metrics_host or "127.0.0.1", "--metrics-host")
        self.workers = workers or default_workers()
        self.auth = auth or ("none" if is_loopback(self.address) else "token")
        try:
            self.page = page_enabled(os.environ) and page
        except ValueError as error:
            raise SettingError(str(error)) from error
        self.token_file: Path | None = None
        self._mar, self._sha256, self._access_log = mar.absolute(), sha256, access_log
        self._requested_port = port
        self._drained = False

    def __enter__(self) -> "Server":
        """Starts TorchServe and returns when all workers are ready and one request was answered with an image.

        Raises:
            ServerError: Java is absent, a port is in use, the archive cannot be served, or a worker died. Nothing is
                left running.
        """
        java = find_java()
        reserved = reserve_ports(self.address, self._requested_port, self._metrics_address)
        with contextlib.ExitStack() as stack, reserved as self._ports:
            self.url = f"http://{url_host(connect_address(self.address))}:{self._ports.inference}"
            self.management_url = f"http://127.0.0.1:{self._ports.management}"
            metrics = url_host(connect_address(self._metrics_address))
            self.metrics_url = f"http://{metrics}:{self._ports.metrics}/metrics"
            self.folder = stack.enter_context(private_folder())
            self._logs = Logs(self.folder.path / "logs")
            self._launch(java)
            stack.callback(self._end_processes)
            try:
                self._wait_until_ready()
            except ServerError:
                if cause := self._logs.system_error():  # shorter than Java's message
                    raise cause from None
                raise
            self._open_endpoints(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends TorchServe and its workers and deletes the private folder, in bounded time."""
        self._stack.close()

    def wait(self) -> None:
        """Blocks while TorchServe runs. Raises ServerError when it exits."""
        raise self._error(f"TorchServe exited unexpectedly with status {self._process.wait()}.")

    def deploy(self, mar: Path, sha256: str | None = None) -> Message:
        """Serves another archive from now on; no request waits or fails.

        Returns:
            `model_version` and `previous`, the version that was served before.

        Raises:
            PackageError, DeployError: the archive cannot be served; the old version stays active.
        """
        return self._versions.deploy(mar, sha256)

    def roll_back(self) -> Message:
        """Serves the previous version again; returns the same as `deploy`.

        Raises:
            DeployError: there is no previous version.
        """
        return self._versions.roll_back()

    def drain(self, seconds: float = 10.0, abort: threading.Event | None = None) -> bool:
        """Refuses new connections and waits for all replies; returns whether all requests were answered in time.

        Args:
            seconds: the time limit.
            abort: ends the wait at once when it is set.
        """
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

    def _launch(self, java: Path) -> None:
        folder, token = self.folder, self.auth == "token"
        variables = environment(os.environ, folder.alias, page=self.page, access_log=self._access_log)
        self._versions = Versions(folder.path, variables)
        try:
            self._versions.start(self._mar, self._sha256)
        except PackageError as error:
            raise ServerError(f"this archive cannot be served: {error}") from error
        files = {
            "config.properties": config_properties(folder.alias, self.address, self._ports, self.workers, token),
            "hosts": hosts(self.address),
            "log4j2.xml": log4j2(folder.alias),
            "metrics.yaml": METRICS,
        }
        for name, text in files.items():
            with add_path_to_errors(folder.path / name):
                (folder.path / name).write_text(text, encoding="utf-8")
        if self._access_log is not None:
            self._access_log.mkdir(parents=True, exist_ok=True)
        self._process = launch(java, folder, variables)
        self.pid = self._process.pid
        if token:
            self.token_file = folder.path / "key_file.json"  # TorchServe writes it to its working directory

    def _end_processes(self) -> None:
        """Ends Java and the workers."""
        if not self._drained:  # a drained server has no request left; its orderly shutdown takes two seconds
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        # A worker that is still importing does not notice that Java has exited. It is in Java's process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _open_endpoints(self, stack: contextlib.ExitStack) -> None:
        """Opens the endpoints of this process: metrics, management, and the control socket of `ganctl deploy`."""
        folder, ports = self.folder, self._ports
        try:
            self._metrics = MetricsEndpoint(
                self._metrics_address,
                ports.metrics,
                folder=folder.path / "metrics",
                workers=self.workers,
                versions=lambda: {MODEL_NAME: self._versions.active.model_version},
                front_end=partial(front_end_metrics, front_end_client(folder.alias / "metrics.sock")),
            )
            stack.callback(self._metrics.close)
            stack.callback(open_management(ports.management, folder.alias / "management.sock").close)
            stack.callback(ControlSocket(ports.inference, self._handle).close)
        except OSError as error:  # in use since the ports were checked
            names = f"{ports.management}, {ports.metrics} or the control socket of `ganctl deploy`"
            raise ServerError(f"--port: {names} cannot be used ({error}). Give another --port.") from error

    def _handle(self, command: Message) -> Message:
        if command.get("model") not in (None, MODEL_NAME):
            raise DeployError(f"--model {command['model']}: the server has no such model, but {MODEL_NAME}.")
        if command.get("rollback"):
            return self.roll_back()
        return self.deploy(Path(command["mar"]), command.get("sha256"))

    def _error(self, text: str) -> ServerError:
        return ServerError(text + self._logs.message())

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with front_end_client(self.folder.alias / "management.sock") as management:
            while True:
                if self._process.poll() is not None:
                    raise self._error("TorchServe ended while starting.")
                if self._logs.worker_died():
                    self._logs.wait_for_traceback()
                    raise self._error("a worker could not load the model.")
                if self._workers_ready(management):
                    return self._check_first_request()
                if time.monotonic() > deadline:
                    raise self._error(f"TorchServe was not ready after {_START_SECONDS:g} s.")
                time.sleep(0.1)

    def _workers_ready(self, management: httpx.Client) -> bool:
        try:
            reply = management.get(f"/models/{MODEL_NAME}", headers=self.authorization("management"))
        except (httpx.TransportError, OSError, ValueError):
            return False  # TorchServe does not listen yet, or the token file is absent or incomplete
        if reply.status_code != 200:  # TorchServe listens only after it has tried to load the archive
            raise self._error(f"TorchServe refused the archive {self._mar} ({reply.status_code}: {reply.text[:500]}).")
        workers = reply.json()[0]["workers"]
        return len(workers) >= self.workers and all(worker["status"] == "READY" for worker in workers)

    def _check_first_request(self) -> None:
        try:
            with local_client(base_url=self.url, timeout=30.0) as client:
                reply = client.get(f"/predictions/{MODEL_NAME}", headers=self.authorization("inference"))
        except httpx.TransportError as error:
            raise self._error(
                f"{self.url}: the first request got no answer ({str(error) or type(error).__name__}). Check that this"
                f" machine can reach its own address ({self.address})."
            ) from error
        if reply.status_code != 200 or reply.headers.get("content-type") != "image/png":
            raise self._error(
                f"the first request: found status {reply.status_code} ({reply.text[:500]}), expected 200 and a PNG."
            )

    def _renew_token(self) -> None:
        """Renews the inference token if it has expired: TorchServe's tokens are valid for an hour."""
        if self.token_file is None:
            return
        expiry = json.loads(self.token_file.read_text("utf-8"))["inference"]["expiration time"]
        if datetime.fromisoformat(expiry) <= datetime.now(UTC):
            with front_end_client(self.folder.alias / "management.sock") as management:
                management.get("/token", params={"type": "inference"}, headers=self.authorization("API"))

    def authorization(self, kind: Literal["management", "inference", "API"]) -> dict[str, str]:
        """Returns the header with the current token of this kind; empty without tokens."""
        if self.token_file is None:
            return {}
        key = json.loads(self.token_file.read_text("utf-8"))[kind]["key"]
        return {"Authorization": f"Bearer {key}"}
