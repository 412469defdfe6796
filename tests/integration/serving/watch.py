"""A server's processes, seen from outside: who they are, what memory they hold, what TorchServe says of them."""

from pathlib import Path

import httpx

from .conftest import Running, java_of, members


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
        told = httpx.get(f"{self._management}/models/digits").json()[0]["workers"]
        return sum(worker["status"] == "READY" for worker in told)

    def memory(self) -> tuple[float, float]:
        """MiB in memory: of Java, and of the largest worker."""
        return _resident(self.java), max(map(_resident, self.workers()))


def _resident(pid: int) -> float:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
