"""Runs a server under test: starts it in a folder and session of its own, waits until ready, ends all its processes."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ganctl.benchmarks.children import python_path
from ganctl.benchmarks.errors import BenchError
from ganctl.serving.hosts.torchserve.private_folder import ascii_alias

_READY_SECONDS = 120.0
_STOP_SECONDS = 20.0
# Each server chooses its number of threads, and gets no settings from the environment of the benchmark.
_EXCLUDED_PREFIXES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TEMP", "TS_", "JAVA_TOOL_", "_JAVA_", "JDK_JAVA_")


@dataclass(frozen=True)
class Launch:
    """The command that starts a server.

    `ready` takes the file with the server's stdout; it returns the URL for requests once every worker is ready, and
    None before.
    """

    command: Sequence[str]
    ready: Callable[[Path], str | None]
    environment: Mapping[str, str] = field(default_factory=dict)


class Process(NamedTuple):
    """A process; the start time (clock ticks since boot) distinguishes it from a later one with the same pid."""

    pid: int
    start_time: int


class RunningServer(NamedTuple):
    """A server that is ready."""

    url: str
    pid: int
    seconds: float  # from start to ready

    def memory(self) -> dict[str, float]:
        """Returns memory in MB: `rss` and `pss` of the largest worker, `pss_all` of all processes; and `workers`.

        Workers are all processes except the first one and Java. RSS counts shared pages in full, PSS in proportion.
        """
        sizes = {process: _memory(process.pid) for process in process_tree(self.pid)}
        java = {process for process in sizes if _is_java(process.pid)}
        workers = [size for process, size in sizes.items() if process not in java and process.pid != self.pid]
        largest = max(workers, key=lambda size: size["Rss"])
        everything = sum(size["Pss"] for size in sizes.values())
        return {"rss": largest["Rss"], "pss": largest["Pss"], "pss_all": everything, "workers": len(workers)}


@contextmanager
def run_server(name: str, prepare: Callable[[Path], Launch]) -> Iterator[RunningServer]:
    """Runs a server, and ends all its processes and deletes its folder afterwards.

    Args:
        name: for error messages.
        prepare: fills an empty folder and returns the command to start in it.

    Raises:
        BenchError: the server ended or was not ready in time; the message has its last lines of output.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ganctl-bench-", ignore_cleanup_errors=True) as temporary,
        ascii_alias(Path(temporary)) as folder,
    ):
        launch = prepare(folder)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_EXCLUDED_PREFIXES)}
        environment |= {"LC_ALL": "C.UTF-8", "TMPDIR": str(folder)}  # Java decodes file names by the locale
        environment |= {"PYTHONPATH": python_path(), "PYTHONSAFEPATH": "1", **launch.environment}
        started = time.perf_counter()
        with (folder / "stdout").open("wb") as output, (folder / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                launch.command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        try:
            url = _wait(name, process, launch, folder)
            yield RunningServer(url, process.pid, time.perf_counter() - started)
        finally:
            _end(process)


def _wait(name: str, process: "subprocess.Popen[bytes]", launch: Launch, folder: Path) -> str:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if (url := launch.ready(folder / "stdout")) is not None:
            return url
        if process.poll() is not None:
            raise BenchError(f"{name} ended with status {process.returncode} while starting.{_last_output(folder)}")
        time.sleep(0.02)
    raise BenchError(f"{name} was not ready after {_READY_SECONDS:g} s.{_last_output(folder)}")


def _last_output(folder: Path) -> str:
    text = "\n".join((folder / name).read_text("utf-8", "replace") for name in ("stdout", "stderr"))
    return "".join(f"\n  {line}" for line in text.strip().splitlines()[-20:])


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Terminates the server, then kills its remaining processes: some servers leave their workers running."""
    processes = process_tree(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    for each in processes:
        if _stat(each.pid)[1:] == (each.start_time,):
            with suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
    process.wait()


def process_tree(pid: int) -> list[Process]:
    """Returns a process and all its descendants, from /proc."""
    children: dict[int, list[Process]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if stat := _stat(int(folder.name)):
            children.setdefault(stat[0], []).append(Process(int(folder.name), stat[1]))
    stat = _stat(pid)
    tree = [Process(pid, stat[1])] if stat else []
    for process in tree:  # grows during the loop
        tree += children.get(process.pid, [])
    return tree


def _stat(pid: int) -> tuple[int, int] | tuple[()]:
    """Returns the parent's pid and the start time, or () if the process does not exist."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:  # ended in the meantime
        return ()
    return int(fields[1]), int(fields[19])


def _is_java(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip() == "java"
    except OSError:
        return False


def _memory(pid: int) -> dict[str, float]:
    """Returns Rss and Pss in MB, or zeros if the process has ended."""
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]]
    except OSError:
        return {"Rss": 0.0, "Pss": 0.0}
    return {words[0].rstrip(":"): int(words[1]) * 1024 / 1e6 for words in lines if words[0] in ("Rss:", "Pss:")}
