"""Life cycle of the native host: start, wait until ready, deploy, drain, stop without leaving anything behind."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import httpx

from ganctl.serving.addresses import connect_address, is_loopback, resolve, url_host
from ganctl.serving.archive.mar import MODEL_NAME
from ganctl.serving.deploy.control_socket import ControlSocket, Message
from ganctl.serving.errors import DeployError, PackageError, ServerError, SettingError
from ganctl.serving.handler.page import page_enabled
from ganctl.serving.hosts.environment import worker_environment
from ganctl.serving.hosts.management import Management, ManagementReply, refusal
from ganctl.serving.hosts.metrics import MetricsEndpoint
from ganctl.serving.hosts.native.certificate import check_certificate
from ganctl.serving.hosts.native.keys import Keys, first_key, write_new_key
from ganctl.serving.hosts.native.pool import WorkerPool
from ganctl.serving.hosts.native.proxies import Proxies
from ganctl.serving.hosts.native.rate_limit import create_rate_file
from ganctl.serving.hosts.native.sockets import shared_port, unix_socket
from ganctl.serving.hosts.native.worker import Settings
from ganctl.serving.hosts.ports import bind_ports
from ganctl.serving.hosts.versions import Versions
from ganctl.serving.hosts.workers import default_workers

_START_SECONDS = 120.0
_POLL_SECONDS = 0.02
_PORTS = ("inference", "management", "metrics")
_ROOT = Path(__file__).parents[4]


class Server:
    """Serves archives: inside `with Server(mar) as server: ...` it answers at `server.url`.

    Args:
        models: the archive, which is served as `digits`; or several ones by their names.
        host: the address to listen on.
        port: the inference port; the next two are for management and metrics. 0 chooses three free ports.
        metrics_host: the address of the metrics; None for loopback.
        workers: number of worker processes; None for one per core, at most eight.
        auth: "token" makes requests need the key in `token_file`; None is "none" on loopback, else "token".
        page: whether a browser gets the archive's page; the variable GANCTL_PAGE=off disables it, too.
        sha256: the expected digest of each archive, in hexadecimal digits; None to accept any archive.
        access_log: folder for the access log (one line of JSON per request); None for no access log.
        keys: file with a line `NAME KEY` for each key that requests may have; read again when it changes.
        rate: requests per second that each key may send, or all clients together without keys; None for no limit.
        origins: those whose pages may read replies, such as `https://example.org`; `*` for all.
        proxies: addresses or networks of proxies whose header X-Forwarded-For names the client in the access log.
        tls_cert, tls_key: PEM files of the certificate and its private key, for HTTPS; read again when they change.
        unix_socket: path of a Unix socket to listen on, in addition to the port.
        device: runs the generators: `cpu`, `cuda`, or `auto` (a GPU where there is one and the model can use it).
    """

    keys_expire = False

    def __init__(
        self,
        models: Path | Mapping[str, Path],
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        metrics_host: str | None = None,
        workers: int | None = None,
        auth: Literal["token", "none"] | None = None,
        page: bool = True,
        sha256: str | None = None,
        access_log: Path | None = None,
        keys: Path | None = None,
        rate: float | None = None,
        origins: Sequence[str] = (),
        proxies: Sequence[str] = (),
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        unix_socket: Path | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        self.address = resolve(host)
        self._metrics_address = resolve(metrics_host or "127.0.0.1", "--metrics-host")
        self.workers = workers or default_workers()
        self.auth = auth or ("none" if is_loopback(self.address) and keys is None else "token")
        if keys is not None:
            Keys(keys)  # raises before anything is started
        self._keys, self._rate, self._origins, self._proxies = keys, rate, tuple(origins), tuple(proxies)
        try:
            Proxies(proxies)
        except ValueError as error:
            raise SettingError(f"--trusted-proxy: {error}. Give addresses or networks.") from error
        self._tls = check_certificate(tls_cert, tls_key) if tls_cert is not None else None
        self._unix_path = unix_socket.absolute() if unix_socket is not None else None
        try:
            self.page = page_enabled(os.environ) and page
        except ValueError as error:
            raise SettingError(str(error)) from error
        self.token_file: Path | None = None
        named = {MODEL_NAME: models} if isinstance(models, Path) else models
        self._archives = {name: mar.absolute() for name, mar in named.items()}
        self._sha256, self._access_log = sha256, access_log
        self._requested_port, self._device = port, device
        self._stopped = threading.Event()
        self.pid = os.getpid()

    def __enter__(self) -> "Server":
        """Starts the workers and returns when all are ready and one request was answered with an image.

        Raises:
            ServerError: a port is in use, the archive cannot be served, or a worker died. Nothing is left running.
        """
        with contextlib.ExitStack() as stack:
            sockets = stack.enter_context(bind_ports(self.address, self._requested_port, _PORTS, self._metrics_address))
            self._port_socket, self._shared = sockets[0], list[socket.socket]()
            self._port_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if self._unix_path is not None:
                self._shared.append(stack.enter_context(unix_socket(self._unix_path)))
            inference, management, metrics = (each.getsockname()[1] for each in sockets)
            scheme = "https" if self._tls is not None else "http"
            self.url = f"{scheme}://{url_host(connect_address(self.address))}:{inference}"
            self.management_url = f"http://127.0.0.1:{management}"
            self.metrics_url = f"http://{url_host(connect_address(self._metrics_address))}:{metrics}/metrics"
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ganctl-", ignore_cleanup_errors=True))
            self.folder = Path(folder).resolve()  # workers report resolved paths
            self._prepare()
            self._pool = WorkerPool(self.workers, self._start_worker)
            stack.callback(self._pool.close)
            stack.callback(self._stopped.set)
            self._wait_until_ready()
            self._open_endpoints(stack, inference, management, metrics)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the workers and deletes the private folder, in bounded time."""
        self._stack.close()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return self._pool.pids()

    def wait(self) -> None:
        """Blocks until the server stops. Workers that end are restarted."""
        while not self._stopped.wait(3600.0):  # a wait without a limit would not be interrupted by signals
            pass

    def deploy(self, mar: Path, sha256: str | None = None, model: str | None = None) -> Message:
        """Serves another archive from now on; no request waits or fails.

        Args:
            mar: the archive.
            sha256: its expected digest, or None.
            model: the name of the model; None if the server has only one.

        Returns:
            `model_version` and `previous`, the version that was served before.

        Raises:
            PackageError, DeployError: the archive cannot be served; the old version stays active.
        """
        return self._versions_of(model).deploy(mar, sha256)

    def roll_back(self, model: str | None = None) -> Message:
        """Serves the previous version of a model again; returns the same as `deploy`.

        Raises:
            DeployError: there is no previous version, or no such model.
        """
        return self._versions_of(model).roll_back()

    def drain(self, seconds: float = 10.0, abort: threading.Event | None = None) -> bool:
        """Refuses new connections and waits for all replies; returns whether all requests were answered in time.

        Args:
            seconds: the time limit.
            abort: ends the wait at once when it is set.
        """
        self._pool.stop_restarts()
        for each in self._shared:
            each.close()  # the workers close their copies
        return self._pool.drain(seconds, abort or threading.Event())

    def authorization(self) -> dict[str, str]:
        """Returns the header with the key; empty if requests need none."""
        return {"Authorization": f"Bearer {self._own_key}"} if self._own_key is not None else {}

    def _versions_of(self, model: str | None) -> Versions:
        """Returns the versions of a model; raises DeployError if `model` names none, or is needed and absent."""
        names = ", ".join(self._versions)
        if model is None and len(self._versions) > 1:
            raise DeployError(f"--model: found none, expected one of {names}: the server has several models.")
        name = model or next(iter(self._versions))
        if name not in self._versions:
            raise DeployError(f"--model {name}: the server has no such model, but {names}.")
        return self._versions[name]

    def _prepare(self) -> None:
        """Writes the folders, the first versions and the key into the private folder."""
        for name in ("logs", "metrics", "tmp"):
            (self.folder / name).mkdir()
        self._variables = worker_environment(
            os.environ, self.folder, page=self.page, access_log=self._access_log, device=self._device
        )
        self._variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), self._variables.get("PYTHONPATH"))))
        self._versions: dict[str, Versions] = {}
        for name, mar in self._archives.items():
            for part in ("store", "state", "versions"):
                (self._model_folder(name) / part).mkdir(parents=True)
            self._versions[name] = Versions(self._model_folder(name), self._variables)
            try:
                self._versions[name].start(mar, self._sha256)
            except PackageError as error:
                raise ServerError(f"this archive cannot be served: {error}") from error
        self._own_key: str | None = None
        if self._keys is not None:
            self._own_key = first_key(self._keys)
        elif self.auth == "token":
            self.token_file = self.folder / "key_file.json"
            self._own_key = write_new_key(self.token_file)
        if self._rate is not None:
            create_rate_file(self.folder / "rates")
        if self._access_log is not None:
            self._access_log.mkdir(parents=True, exist_ok=True)

    def _start_worker(self, number: int) -> "subprocess.Popen[bytes]":
        with shared_port(self._port_socket) as listener:  # the worker has a copy, which ends with it
            return self._start_process(number, [listener.fileno(), *(each.fileno() for each in self._shared)])

    def _start_process(self, number: int, sockets: Sequence[int]) -> "subprocess.Popen[bytes]":
        settings = Settings(
            sockets=list(sockets),
            states={name: str(self._model_folder(name) / "state") for name in self._archives},
            parent=os.getpid(),
            keys=str(keys.absolute()) if (keys := self._keys or self.token_file) is not None else None,
            rate_file=str(self.folder / "rates"),
            rate=self._rate,
            origins=self._origins,
            proxies=self._proxies,
            tls_cert=str(self._tls[0]) if self._tls is not None else None,
            tls_key=str(self._tls[1]) if self._tls is not None and self._tls[1] is not None else None,
        )
        command = [sys.executable, "-P", "-m", "ganctl.serving.hosts.native.worker", settings.to_json()]
        with self._log(number).open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=sockets,
                start_new_session=True,  # a Ctrl-C in the terminal reaches only us
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._workers_ready():
            self._pool.check()
            if self._pool.ended:
                number = self._pool.ended[0]
                text = self._log(number).read_text("utf-8", errors="replace").strip()
                raise ServerError(f"a worker could not load the model. Its output:\n{text[-8_000:]}")
            if time.monotonic() > deadline:
                raise ServerError(f"the workers were not ready after {_START_SECONDS:g} s.")
            time.sleep(_POLL_SECONDS)
        for name in self._archives:
            self._check_first_request(name)

    def _check_first_request(self, name: str) -> None:
        try:
            with self._client() as client:
                reply = client.get(f"/predictions/{name}", headers=self.authorization())
        except httpx.TransportError as error:
            raise ServerError(
                f"{self.url}: the first request got no answer ({str(error) or type(error).__name__}). Check that this"
                f" machine can reach its own address ({self.address})."
            ) from error
        if reply.status_code != 200 or reply.headers.get("content-type") != "image/png":
            raise ServerError(
                f"the first request: found status {reply.status_code} ({reply.text[:500]}), expected 200 and a PNG."
            )

    def _client(self) -> httpx.Client:
        """A client of this server, which need not prove to us who it is."""
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        return httpx.Client(trust_env=False, verify=unverified, base_url=self.url, timeout=30.0)

    def _workers_ready(self) -> bool:
        """Returns whether every worker has loaded every model and listens."""
        return all(len(versions.ready_workers()) >= self.workers for versions in self._versions.values())

    def _active_versions(self) -> dict[str, str]:
        return {name: versions.active.model_version for name, versions in self._versions.items()}

    def _model_folder(self, name: str) -> Path:
        return self.folder / "models" / name

    def _open_endpoints(self, stack: contextlib.ExitStack, inference: int, management: int, metrics: int) -> None:
        """Opens the endpoints of this process: metrics, management, and the control socket of `ganctl deploy`."""
        try:
            endpoint = MetricsEndpoint(
                self._metrics_address,
                metrics,
                folder=self.folder / "metrics",
                workers=self.workers,
                versions=self._active_versions,
            )
            stack.callback(endpoint.close)
            stack.callback(Management(management, self._describe).close)
            stack.callback(ControlSocket(inference, self._handle).close)
        except OSError as error:  # in use since the ports were checked
            names = f"{management}, {metrics} or the control socket of `ganctl deploy`"
            raise ServerError(f"--port: {names} cannot be used ({error}). Give another --port.") from error

    def _handle(self, command: Message) -> Message:
        model = command.get("model")
        if command.get("rollback"):
            return self.roll_back(model)
        return self.deploy(Path(command["mar"]), command.get("sha256"), model)

    def _describe(self, path: str, authorization: str) -> ManagementReply:
        """Answers a GET request to the management port: the workers' states, in the form of TorchServe's API."""
        parts = path.partition("?")[0].strip("/").split("/")
        if parts == ["models"]:
            found: object = {"models": [{"modelName": name} for name in self._versions]}
        elif len(parts) == 2 and parts[0] == "models" and parts[1] in self._versions:
            found = [self._describe_model(parts[1])]
        else:
            paths = ", ".join(f"/models/{name}" for name in self._versions)
            return refusal(HTTPStatus.NOT_FOUND, f"Nothing is here. Ask for {paths}.")
        return ManagementReply(HTTPStatus.OK, "application/json", json.dumps(found).encode())

    def _describe_model(self, name: str) -> dict[str, object]:
        ready = self._versions[name].ready_workers()
        return {
            "modelName": name,
            "modelVersion": self._versions[name].active.model_version,
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "workers": [
                {"id": str(pid), "pid": pid, "status": "READY" if pid in ready else "LOADING"} for pid in self.pids
            ],
        }

    def _log(self, number: int) -> Path:
        return self.folder / "logs" / f"worker-{number}.log"
