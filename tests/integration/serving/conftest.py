"""Real TorchServe servers: one per back-end, shared by all tests that do not damage them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.hosts.torchserve.server import Server
from tests.unit.serving.gates import Gate
from tests.unit.serving.small_export import write_export
from tests.waiting import PATIENCE, wait_for

PROJECT = Path(__file__).parents[3]


class Running(NamedTuple):
    """A `ganctl serve`: its process, what it printed when ready, and the folder that holds its temporary files."""

    process: "subprocess.Popen[str]"
    record: dict[str, Any]
    temporary: Path

    @property
    def url(self) -> str:
        return str(self.record["url"])


def start_ganctl(*arguments: str, temporary: Path) -> "subprocess.Popen[str]":
    """Runs `ganctl ARGUMENTS` with its temporary files in `temporary`."""
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": path}
    command = [sys.executable, "-m", "ganctl", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What it has written to stdout and stderr, the rest of it, when it ends."""
    return process.communicate(timeout=PATIENCE)


def java_of(pid: int) -> list[int]:
    """The process ids of the children of `pid` that are Java, by /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"org.pytorch.serve.ModelServer" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # gone meanwhile
            continue
    return found


def stop(pid: int) -> None:
    """Stops a process, and returns once all of its threads stand still: until then it may take what comes next."""
    os.kill(pid, signal.SIGSTOP)

    def stands_still() -> bool:
        tasks = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] in "TX" for task in tasks)

    wait_for(stands_still, f"process {pid} stands still")


def members(group: int) -> list[int]:
    """The living processes of a process group, by /proc: Java and its workers."""
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
    """A conditional export, grey; not to be changed."""
    return write_export(tmp_path_factory.mktemp("export") / "export")


@contextlib.contextmanager
def running(source: Path, temporary: Path, *arguments: str) -> Iterator[Running]:
    """`ganctl serve SOURCE --json` with two workers, ready, for as long as the block lasts."""
    words = ("serve", str(source), "--port", "0", "--workers", "2", "--json", *arguments)
    process = start_ganctl(*words, temporary=temporary)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Running(process, json.loads(line), temporary)
    finally:
        process.terminate()
        finish(process)


@pytest.fixture(scope="session")
def served(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with two workers and ONNX Runtime; not to be harmed."""
    with running(export, tmp_path_factory.mktemp("t")) as server:
        yield server


@pytest.fixture
def own(export: Path, tmp_path: Path) -> Iterator[Running]:
    """The same, for one test that does harm."""
    with running(export, tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def guarded(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker, TorchScript, and a token."""
    mar = package(export, tmp_path_factory.mktemp("mar"), "torchscript")
    with Server(mar, port=0, workers=1, auth="token") as server:
        yield server


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate for the workers of an archive."""
    return Gate(tmp_path / "gate")


@pytest.fixture
def gated(export: Path, gate: Gate, tmp_path: Path) -> Path:
    """An archive with that gate."""
    return gate.archive(package(export, tmp_path / "gated"))
