"""Starts child commands, counts cores, identifies ranks from environment variables, and exits a process."""

import atexit
import math
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from ganctl import import_path
from ganctl.signals import stop_unwinding


def ganctl_command(*arguments: str) -> list[str]:
    """Returns the command line that runs a `ganctl` command of this installation, from any folder."""
    return [sys.executable, str(Path(import_path.PACKAGE) / "__main__.py"), *arguments]


def core_numbers() -> Collection[int]:
    """Returns the CPU cores on which this process may run."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use: its cores within the CPU quota of its container.

    A quota of 1.5 cores counts as two: two threads train faster within it than one.
    """
    return math.ceil(min(len(core_numbers()), cpu_quota()))


def cpu_quota(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Returns the CPU quota of this process in cores; infinity without one, or outside Linux.

    The smallest quota of the control group and of those around it counts. In a container the path of the group may be
    that of the host, and its files in the root.

    Args:
        membership: the file with the control groups of this process.
        root: the folder of the control groups, of version 2 (`cpu.max`), or of version 1 (`cpu/cpu.cfs_quota_us`).
    """
    quotas = [math.inf]
    lines = membership.read_text("utf-8", "surrogateescape").splitlines() if membership.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        tree = root / controllers
        group = tree / path.lstrip("/")
        for folder in (group, *group.parents[: len(group.parents) - len(tree.parents)]):
            quotas += _read_quota(folder)
    return min(quotas)


def _read_quota(group: Path) -> list[float]:
    """Returns the quota of one control group, or an empty list."""
    try:
        if (file := group / "cpu.max").exists():
            limit, period = file.read_text("ascii").split()
        else:
            limit, period = ((group / f"cpu.cfs_{name}_us").read_text("ascii").strip() for name in ("quota", "period"))
    except OSError:  # no such group, or hidden from this process
        return []
    return [] if limit in ("max", "-1") else [int(limit) / int(period)]


def exit_process(code: int) -> NoReturn:
    """Exits the process without the interpreter's shutdown.

    The shutdown collects torch's modules, which takes 0.4 s. Running gloo threads sometimes abort the process during
    the shutdown, and torchrun would take a finished rank for a killed one.
    """
    stop_unwinding()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def is_later_rank() -> bool:
    """Returns whether this process is a rank above 0. RANK without WORLD_SIZE is ignored."""
    return 0 < _number("RANK", default=0) < _number("WORLD_SIZE", default=1)


def _number(variable: str, default: int) -> int:
    """Returns the number in an environment variable; `default` if it is not set or is no number."""
    text = os.environ.get(variable, "").strip()
    return int(text) if text.isascii() and text.isdigit() else default
