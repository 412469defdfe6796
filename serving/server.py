"""A TorchServe's life: started with settings of ours, watched until it answers, ended without remains.

Java is launched directly, not through the `torchserve` script: that keeps one pid file for the whole machine, starts in
the background, and passes no signal on.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

import httpx

from .archive import MODEL_NAME, describe
from .errors import PackageError, ServerError
from .integrity import admit
from .java import find_java
from .ports import Ports, free_ports
from .settings import LOOPBACK, config_properties, environment, log4j2

_DEATHS = ("Backend worker process died", "backend worker process died", "Failed to load model")
_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 10.0
_SOCKET_PATH = 107  # what a Unix socket's address holds


class Server:
    """Serves one archive: `with Server(mar) as server: ...` has it ready at `server.url` and leaves nothing behind.

    port: the inference port, the four after it being management, metrics and gRPC; 0 picks five free ones.
    workers: processes that draw; None takes one for each core, at most four.
    sha256: the archive's, in hexadecimal digits, where it is known from elsewhere; another archive is refused.
    auth: "token" has TorchServe demand the token in `token_file`; None means "none" on loopback, "token" elsewhere.

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
        sha256: str | None = None,
        startup_timeout: float = 120.0,
    ) -> None:
        self.mar = mar.absolute()
        self.host = host
        self.workers = workers or min(4, len(os.sched_getaffinity(0)))
        self.auth = auth or ("none" if host in LOOPBACK else "token")
        self.token_file: Path | None = None
        self._sha256 = sha256
        self._wanted_port = port
        self._startup_timeout = startup_timeout
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: Ports | None = None

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
        host = "127.0.0.1" if self.host in ("0.0.0.0", "localhost") else self.host
        return f"http://{host}:{self._ready_ports.inference}"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self._ready_ports.management}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self._ready_ports.metrics}/metrics"

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
        try:
            describe(self.mar)
        except PackageError as error:
            raise ServerError(f"this archive cannot be served: {error}") from error
        java = find_java()
        self._ports = free_ports(self.host, self._wanted_port)
        try:
            self._launch(java)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        """Blocks for as long as the server runs. Raises ServerError when it ends by itself."""
        assert self._process is not None, "a server is waited for once started"
        status = self._process.wait()
        raise ServerError(f"TorchServe ended by itself with status {status}.{self._logged()}")

    def stop(self) -> None:
        """Ends the server, its workers and its folder; bounded, and harmless when repeated."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            # Workers that are still importing do not notice that Java has gone; they are of its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        self.token_file = None

    def _launch(self, java: Path) -> None:
        assert self._ports is not None
        package = importlib.util.find_spec("ts")
        if package is None or package.origin is None:
            raise ServerError("TorchServe is not installed: `pip install torchserve`.")
        home = Path(package.origin).parent.parent
        folder = self._folder = Path(tempfile.mkdtemp(prefix="ganctl-"))
        if len(os.fsencode(folder / "tmp" / ".ts.sock.9000")) > _SOCKET_PATH:
            raise ServerError(
                f"the temporary folder {tempfile.gettempdir()} has too long a path for the workers' sockets "
                f"({_SOCKET_PATH} bytes in all). Set TMPDIR to a shorter one, such as /tmp."
            )
        for name in ("store", "workflows", "logs", "tmp"):
            (folder / name).mkdir()
        try:
            admit(self.mar, folder / "store" / f"{MODEL_NAME}.mar", self._sha256)
        except PackageError as error:
            raise ServerError(f"this archive cannot be served: {error}") from error
        token = self.auth == "token"
        settings = config_properties(folder, self.host, self._ports, self.workers, token)
        (folder / "config.properties").write_text(settings, encoding="utf-8")
        (folder / "log4j2.xml").write_text(log4j2(folder), encoding="utf-8")
        # -UsePerfData: no /tmp/hsperfdata_USER left behind.
        command = [str(java), "-XX:-UsePerfData", f"-Dmodel_server_home={home}", f"-Djava.io.tmpdir={folder / 'tmp'}"]
        command += [f"-Dlog4j.configurationFile=file://{folder / 'log4j2.xml'}", "-cp", f"{home / 'ts' / 'frontend'}/*"]
        command += ["org.pytorch.serve.ModelServer", "--python", sys.executable]
        command += ["-f", str(folder / "config.properties"), "-s", str(folder / "store"), "-ncs"]
        with (folder / "logs" / "java.log").open("wb") as output:
            self._process = _spawn(command, folder, environment(os.environ, folder), output)
        if token:
            self.token_file = folder / "key_file.json"  # TorchServe writes it to its working folder

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._startup_timeout
        with httpx.Client(timeout=5.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise ServerError(f"TorchServe ended while starting.{self._logged()}")
                if any(death in self._log("workers") + self._log("server") for death in _DEATHS):
                    time.sleep(0.5)  # the traceback is still being written, line by line
                    raise ServerError(f"a worker could not load the model.{self._logged()}")
                if self._workers_ready(client):
                    return self._ask_for_one_image(client)
                time.sleep(0.1)
        raise ServerError(f"TorchServe was not ready after {self._startup_timeout:g} s.{self._logged()}")

    def _workers_ready(self, client: httpx.Client) -> bool:
        try:
            reply = client.get(f"{self.management_url}/models/{MODEL_NAME}", headers=self._authorization("management"))
        except (httpx.TransportError, OSError, ValueError):
            return False  # not listening yet, or the token file is not there or not whole yet
        if reply.status_code == 404:  # it listens only after it has tried to load the archive
            raise ServerError(f"TorchServe refused the archive {self.mar}.{self._logged()}")
        if reply.status_code != 200:
            raise ServerError(f"TorchServe's management port answered {reply.status_code}: {reply.text[:500]}")
        workers = reply.json()[0]["workers"]
        return len(workers) >= self.workers and all(worker["status"] == "READY" for worker in workers)

    def _ask_for_one_image(self, client: httpx.Client) -> None:
        reply = client.get(f"{self.url}/predictions/{MODEL_NAME}", headers=self._authorization("inference"))
        if reply.status_code != 200 or reply.headers.get("content-type") != "image/png":
            raise ServerError(f"the first request was answered {reply.status_code}: {reply.text[:500]}{self._logged()}")

    def _authorization(self, kind: Literal["management", "inference"]) -> dict[str, str]:
        if self.token_file is None:
            return {}
        return {"Authorization": f"Bearer {json.loads(self.token_file.read_text())[kind]['key']}"}

    def _log(self, name: str) -> str:
        path = (self._folder or Path()) / "logs" / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def _logged(self) -> str:
        """What to tell of the logs: a worker's traceback where there is one, else the last lines of each."""
        lines = [line.partition(" - ") for line in self._log("workers").splitlines()]
        for place, (head, _, message) in enumerate(lines):
            if message.startswith("Traceback"):
                thread = head.split(" ", 3)[-1]
                told = [message for head, _, message in lines[place:] if head.endswith(thread)]
                return "\nThe worker's own words:\n" + "\n".join(told[:60])
        parts = []
        for name in ("server", "workers", "java"):
            last = self._log(name).splitlines()[-15:]
            if last:
                parts.append(f"\nThe last lines of {name}.log:\n" + "\n".join(last))
        return "".join(parts)


def _spawn(
    command: list[str], folder: Path, environment: dict[str, str], output: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Runs Java as the leader of a session of its own, so that a Ctrl-C in the terminal reaches us alone."""
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_parent() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
