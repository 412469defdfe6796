"""Default number of workers for this machine or container."""

import math
from pathlib import Path

from ganctl.processes import available_cores

MAX_WORKERS = 8  # the front end needs about half as much CPU time again


def default_workers(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """One worker for each core that this process may use, at most eight; each worker runs one inference thread.

    Args:
        quota: the file with the CPU limit of the container; may be absent.
    """
    cores = available_cores()
    if quota.is_file():
        limit, period = quota.read_text("ascii").split()
        if limit != "max":
            cores = min(cores, math.ceil(int(limit) / int(period)))
    return max(1, min(MAX_WORKERS, cores))
