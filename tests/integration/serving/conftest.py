"""Runs real servers: one of each engine, shared by all tests that do not damage it.

A test with the fixture `served` or `own` runs with both engines; what it asserts holds for both.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.hosts.torchserve.server import Server
from tests.unit.serving.gates import Gate
from tests.unit.serving.small_export import write_export
from tests.waiting import PATIENCE, wait_for

PROJECT = Path(__file__).parents[3]


Engine = Literal["torchserve", "native"]
ENGINES: tuple[Engine, ...] = ("torchserve", "native")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("soak_on_torchserve"):
            assert isinstance(item, pytest.Function)
            if item.callspec.params["engine"] == "torchserve":
                item.add_marker(pytest.mark.soak)


class Running(NamedTuple):
    """A running `ganctl serve`: its process, the JSON record that it printed, and its folder for temporary files."""

    process: "subprocess.Popen[str]"
    record: dict[str, Any]
    temporary: Path
    engine: Engine = "torchserve"

    @property
    def url(self) -> str:
        return str(self.record["url"])


def start_ganctl(*arguments: str, temporary: Path) -> "subprocess.Popen[str]":
    """Starts `ganctl ARGUMENTS` with its temporary files in `temporary`."""
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": path}
    command = [sys.executable, "-m", "ganctl", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Waits for the process to end, and returns the unread rest of its stdout and stderr."""
    return process.communicate(timeout=PATIENCE)


def java_of(pid: int) -> list[int]:
    """The process ids of the Java processes among the children of `pid`."""
    return _children(pid, b"org.pytorch.serve.ModelServer")


def _children(pid: int, word: bytes) -> list[int]:
    """The process ids of the living children of `pid` that have `word` in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and word in (folder / "cmdline").read_bytes():  # empty once the process has ended
                found.append(int(folder.name))
        except OSError:  # the process has ended
            continue
    return found


def stop(pid: int) -> None:
    """Stops a process, and returns once all of its threads have stopped: until then one may still take a request."""
    os.kill(pid, signal.SIGSTOP)

    def all_threads_stopped() -> bool:
        tasks = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] in "TX" for task in tasks)

    wait_for(all_threads_stopped, f"all threads of process {pid} have stopped")


def native_workers_of(pid: int) -> list[int]:
    """The process ids of the native host's workers among the children of `pid`."""
    return _children(pid, b"ganctl.serving.hosts.native.worker")


def members(group: int) -> list[int]:
    """The process ids of the living processes of a process group: Java and its workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgid = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgid) == group and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional export of gray images; a test must not change it."""
    return write_export(tmp_path_factory.mktemp("export") / "export")


@contextlib.contextmanager
def running(source: Path, temporary: Path, *arguments: str, engine: Engine = "torchserve") -> Iterator[Running]:
    """Runs `ganctl serve SOURCE --json` with two workers until the block ends; yields when it is ready."""
    command = ("serve", str(source), "--engine", engine, "--port", "0", "--workers", "2", "--json", *arguments)
    process = start_ganctl(*command, temporary=temporary)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Running(process, json.loads(line), temporary, engine)
    finally:
        process.terminate()
        finish(process)


@pytest.fixture(scope="session")
def server_of(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Engine], Running]]:
    """server_of(engine) → the shared server of an engine, with two workers and ONNX Runtime; started when needed."""
    servers: dict[Engine, Running] = {}
    with contextlib.ExitStack() as stack:

        def server_of(engine: Engine) -> Running:
            if engine not in servers:
                context = running(export, tmp_path_factory.mktemp("t"), engine=engine)
                servers[engine] = stack.enter_context(context)
            return servers[engine]

        yield server_of


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of the engines."""
    engine: Engine = request.param
    return engine


@pytest.fixture(scope="session")
def served(engine: Engine, server_of: Callable[[Engine], Running]) -> Running:
    """The shared server of each engine; a test must not damage it."""
    return server_of(engine)


@pytest.fixture(scope="session")
def torchserve(server_of: Callable[[Engine], Running]) -> Running:
    """The shared server of TorchServe; a test must not damage it."""
    return server_of("torchserve")


@pytest.fixture
def own(engine: Engine, export: Path, tmp_path: Path) -> Iterator[Running]:
    """A server of each engine, with two workers and ONNX Runtime, for one test, which may damage it."""
    with running(export, tmp_path, engine=engine) as server:
        yield server


@pytest.fixture(scope="session")
def token_server(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A shared server with one worker, TorchScript and `--auth token`."""
    mar = package(export, tmp_path_factory.mktemp("mar"), "torchscript")
    with Server(mar, port=0, workers=1, auth="token") as server:
        yield server


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty folder with a short path, for a server's temporary files: the path of a Unix socket is limited."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate at which the workers of `gated` wait."""
    return Gate(tmp_path / "gate")


@pytest.fixture
def gated(export: Path, gate: Gate, tmp_path: Path) -> Path:
    """An archive whose workers wait at `gate`."""
    return gate.archive(package(export, tmp_path / "gated"))
