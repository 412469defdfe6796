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
    """MiB."""

    heap: float  # in use in Java's heap
    java: float  # of Java in memory, with what it has ready for more
    worker: float  # of the largest worker in memory


class Watch:
    """Java and the workers of a running server."""

    def __init__(self, server: Running) -> None:
        self._management = str(server.record["management_url"])
        (self.java,) = java_of(server.process.pid)

    def workers(self) -> set[int]:
        """The process ids of the workers that live."""
        return set(members(self.java)) - {self.java}

    def ready(self) -> int:
        """How many workers TorchServe holds for ready."""
        told = http.get(f"{self._management}/models/digits").json()[0]["workers"]
        return sum(worker["status"] == "READY" for worker in told)

    def memory(self) -> Memory:
        """What is held now. Java throws away before what it no longer needs, or its heap would tell nothing."""
        self._ask_java("GC.run")
        told = self._ask_java("GC.heap_info")
        new, tenured = re.findall(r"generation +total \d+K, used (\d+)K", told)
        workers = max(map(_resident, self.workers()))
        return Memory(heap=(int(new) + int(tenured)) / 1024, java=_resident(self.java), worker=workers)

    def _ask_java(self, command: str) -> str:
        """What `jcmd PID COMMAND` says.

        HotSpot's attach protocol: a file and a signal make it listen on a socket, which takes a version, a command and
        three arguments.
        """
        listening = Path(f"/tmp/.java_pid{self.java}")
        if not listening.exists():
            wanted = Path(f"/proc/{self.java}/cwd/.attach_pid{self.java}")
            wanted.touch()
            os.kill(self.java, signal.SIGQUIT)
            wait_for(listening.exists, "Java listens")
            wanted.unlink()
        with socket.socket(socket.AF_UNIX) as attached:
            attached.connect(str(listening))
            attached.sendall(b"1\0jcmd\0%s\0\0\0" % command.encode())
            answer = attached.makefile("rb").read().decode()
        assert answer.startswith("0\n"), answer
        return answer


def _resident(pid: int) -> float:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
