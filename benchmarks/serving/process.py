"""A server that is measured: started in a folder and a session of its own, watched until ready, ended by its pids."""

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

from ganctl.benchmarks.errors import BenchError
from ganctl.serving.hosts.torchserve.private_folder import plain_name

_ROOT = Path(__file__).parents[3]
_READY_SECONDS = 120.0
_STOP_SECONDS = 20.0
# Each server has as many threads as it chooses, and no settings but those that are told here.
_LEFT_OUT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TEMP", "TS_", "JAVA_TOOL_", "_JAVA_", "JDK_JAVA_")


@dataclass(frozen=True)
class Launch:
    """How a server is started. `ready` gives the URL to ask once every worker is up, from what the server has printed
    or answers; None until then."""

    command: Sequence[str]
    ready: Callable[[Path], str | None]  # is given the file of its standard output
    environment: Mapping[str, str] = field(default_factory=dict)


class Process(NamedTuple):
    """A process, told from a later one of the same pid by when it began (clock ticks since the machine started)."""

    pid: int
    began: int


class Started(NamedTuple):
    """A server that is ready."""

    url: str
    pid: int
    seconds: float  # from the start to ready

    def memory(self) -> dict[str, float]:
        """In MB: `rss` and `pss` of the largest worker (neither the process that was started nor Java), `pss_all` of
        all processes. RSS counts shared pages in every process, PSS each process's share of them."""
        sizes = {process: _memory(process.pid) for process in family(self.pid)}
        java = {process for process in sizes if _is_java(process.pid)}
        workers = [size for process, size in sizes.items() if process not in java and process.pid != self.pid]
        largest = max(workers, key=lambda size: size["Rss"])
        everything = sum(size["Pss"] for size in sizes.values())
        return {"rss": largest["Rss"], "pss": largest["Pss"], "pss_all": everything, "workers": len(workers)}


@contextmanager
def started(name: str, prepare: Callable[[Path], Launch]) -> Iterator[Started]:
    """Runs a server; `prepare` fills an empty folder and says how to start in it. Nothing is left of it afterwards.

    Raises:
        BenchError: it ended, or was not ready in time; with what it printed last.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ganctl-bench-", ignore_cleanup_errors=True) as place,
        plain_name(Path(place)) as folder,
    ):
        launch = prepare(folder)
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_LEFT_OUT)}
        environment |= {"LC_ALL": "C.UTF-8", "TMPDIR": str(folder)}  # Java reads names by the locale
        environment |= {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", **launch.environment}
        began = time.perf_counter()
        with (folder / "stdout").open("wb") as output, (folder / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                launch.command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        try:
            url = _wait(name, process, launch, folder)
            yield Started(url, process.pid, time.perf_counter() - began)
        finally:
            _end(process)


def _wait(name: str, process: "subprocess.Popen[bytes]", launch: Launch, folder: Path) -> str:
    ends = time.monotonic() + _READY_SECONDS
    while time.monotonic() < ends:
        if (url := launch.ready(folder / "stdout")) is not None:
            return url
        if process.poll() is not None:
            raise BenchError(f"{name} ended with status {process.returncode} while starting.{_printed(folder)}")
        time.sleep(0.02)
    raise BenchError(f"{name} was not ready after {_READY_SECONDS:g} s.{_printed(folder)}")


def _printed(folder: Path) -> str:
    last = [
        line for name in ("stdout", "stderr") for line in (folder / name).read_text("utf-8", "replace").splitlines()
    ]
    return "".join(f"\n  {line}" for line in last[-20:])


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks the server to end, and kills what is left of it: not every one takes its workers along."""
    everybody = family(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    for one in everybody:
        if _stat(one.pid)[1:] == (one.began,):
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
    process.wait()


def family(pid: int) -> list[Process]:
    """A process and all that descend from it, by /proc."""
    children: dict[int, list[Process]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if stat := _stat(int(folder.name)):
            children.setdefault(stat[0], []).append(Process(int(folder.name), stat[1]))
    stat = _stat(pid)
    found = [Process(pid, stat[1])] if stat else []
    for process in found:  # it grows on the way
        found += children.get(process.pid, [])
    return found


def _stat(pid: int) -> tuple[int, int] | tuple[()]:
    """The parent's pid, and when the process began; nothing where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:  # gone meanwhile
        return ()
    return int(fields[1]), int(fields[19])


def _is_java(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip() == "java"
    except OSError:
        return False


def _memory(pid: int) -> dict[str, float]:
    """Rss and Pss, in MB; zeros of a process that has ended meanwhile."""
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]]
    except OSError:
        return {"Rss": 0.0, "Pss": 0.0}
    return {words[0].rstrip(":"): int(words[1]) * 1024 / 1e6 for words in lines if words[0] in ("Rss:", "Pss:")}
