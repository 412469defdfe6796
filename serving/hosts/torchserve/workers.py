"""How many workers a machine has use for."""

import math
import os
from pathlib import Path

MOST_WORKERS = 8  # beside the front end, which uses about half as much of the machine


def default_workers(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """One for each core that this process may use, also by the limit of its container (`quota`), at most eight.

    A worker draws on one thread: more of them would only wait for each other.
    """
    cores = len(os.sched_getaffinity(0))
    if quota.is_file():
        most, period = quota.read_text("ascii").split()
        if most != "max":
            cores = min(cores, math.ceil(int(most) / int(period)))
    return max(1, min(MOST_WORKERS, cores))
