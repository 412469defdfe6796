"""Observes a server's processes: pids, memory, and TorchServe's worker states."""

import os
import re
import signal
import socket
from pathlib import Path
from typing import NamedTuple

from tests import http
from tests.integration.serving.conftest import Running, java_of, members
from tests.waiting import wait_for


class Memory(NamedTuple):
    """The memory of a server, in MiB."""

    heap: float  # used part of Java's heap
    java: float  # resident set of Java, free heap included
    worker: float  # resident set of the largest worker


class Watch:
    """Java and the workers of a running server."""

    def __init__(self, server: Running) -> None:
        self._management = str(server.record["management_url"])
        (self.java,) = java_of(server.process.pid)

    def workers(self) -> set[int]:
        """The process ids of the living workers."""
        return set(members(self.java)) - {self.java}

    def ready(self) -> int:
        """The number of workers that TorchServe reports as READY."""
        workers = http.get(f"{self._management}/models/digits").json()[0]["workers"]
        return sum(worker["status"] == "READY" for worker in workers)

    def memory(self) -> Memory:
        """Measures the memory after a garbage collection; without it, the heap's size would mean nothing."""
        self._jcmd("GC.run")
        heap = self._jcmd("GC.heap_info")
        new, tenured = re.findall(r"generation +total \d+K, used (\d+)K", heap)
        workers = max(map(_resident, self.workers()))
        return Memory(heap=(int(new) + int(tenured)) / 1024, java=_resident(self.java), worker=workers)

    def _jcmd(self, command: str) -> str:
        """Returns the output of `jcmd PID COMMAND`.

        Speaks HotSpot's attach protocol: a file and a signal make Java listen on a Unix socket, which takes a version,
        a command and three arguments.
        """
        socket_path = Path(f"/tmp/.java_pid{self.java}")
        if not socket_path.exists():
            attach_file = Path(f"/proc/{self.java}/cwd/.attach_pid{self.java}")
            attach_file.touch()
            os.kill(self.java, signal.SIGQUIT)
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
