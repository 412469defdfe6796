"""Observes a server's processes: pids, memory, and the workers' states."""

import os
import re
import signal
import socket
from pathlib import Path
from typing import NamedTuple

from tests import http
from tests.integration.serving.conftest import Running, java_of, members, native_workers_of
from tests.waiting import wait_for


class Memory(NamedTuple):
    """The memory of a server, in MiB. Without Java, that of Java is 0."""

    heap: float  # used part of Java's heap
    java: float  # resident set of Java, free heap included
    worker: float  # resident set of the largest worker


class Watch:
    """The workers of a running server, and its Java."""

    def __init__(self, server: Running) -> None:
        self._management = str(server.record["management_url"])
        self._server = server.process.pid
        self._java = java_of(self._server)
        assert len(self._java) == (server.engine == "torchserve")

    def workers(self) -> set[int]:
        """The process ids of the living workers."""
        return {pid for java in self._java for pid in members(java)} - {*self._java} | {
            *native_workers_of(self._server)
        }

    def processes(self) -> set[int]:
        """The process ids of the living workers and of Java."""
        return self.workers() | {pid for java in self._java for pid in members(java)}

    def ready(self) -> int:
        """The number of workers that the server reports as READY."""
        workers = http.get(f"{self._management}/models/digits").json()[0]["workers"]
        return sum(worker["status"] == "READY" for worker in workers)

    def memory(self) -> Memory:
        """Measures the memory after a garbage collection; without it, the heap's size would mean nothing."""
        worker = max(map(_resident, self.workers()))
        if not self._java:
            return Memory(heap=0.0, java=0.0, worker=worker)
        (java,) = self._java
        _jcmd(java, "GC.run")
        new, tenured = re.findall(r"generation +total \d+K, used (\d+)K", _jcmd(java, "GC.heap_info"))
        return Memory(heap=(int(new) + int(tenured)) / 1024, java=_resident(java), worker=worker)


def _jcmd(java: int, command: str) -> str:
    """Returns the output of `jcmd PID COMMAND`.

    Speaks HotSpot's attach protocol: a file and a signal make Java listen on a Unix socket, which takes a version,
    a command and three arguments.
    """
    socket_path = Path(f"/tmp/.java_pid{java}")
    if not socket_path.exists():
        attach_file = Path(f"/proc/{java}/cwd/.attach_pid{java}")
        attach_file.touch()
        os.kill(java, signal.SIGQUIT)
        wait_for(socket_path.exists, "Java listens on its attach socket")
        attach_file.unlink()
    with socket.socket(socket.AF_UNIX) as attached:
        attached.connect(str(socket_path))
        attached.sendall(b"1\0jcmd\0%s\0\0\0" % command.encode())
        answer = attached.makefile("rb").read().decode()
    assert answer.startswith("0\n"), answer
    return answer


def _resident(pid: int) -> float:
    """The resident set of a process, in MiB."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
