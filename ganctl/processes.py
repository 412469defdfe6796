"""Starts child commands, counts cores, identifies ranks from environment variables, and exits a process."""

import atexit
import os
import sys
from pathlib import Path
from typing import NoReturn

from ganctl import import_path
from ganctl.signals import stop_unwinding


def ganctl_command(*arguments: str) -> list[str]:
    """Returns the command line of a `ganctl` command of this installation, whatever the current folder holds."""
    return [sys.executable, str(Path(import_path.PACKAGE) / "__main__.py"), *arguments]


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def exit_process(code: int) -> NoReturn:
    """Exits the process. One of several ranks skips the interpreter's shutdown.

    During the shutdown, running gloo threads sometimes abort the process, and torchrun would take a finished rank for a
    killed one.
    """
    stop_unwinding()
    if _world_size() <= 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _world_size() -> int:
    """Returns the number of ranks, from WORLD_SIZE."""
    size = os.environ.get("WORLD_SIZE", "").strip()
    return int(size) if size.isascii() and size.isdigit() else 1


def is_later_rank() -> bool:
    """Returns whether this process is a rank above 0. RANK without WORLD_SIZE is ignored."""
    rank = os.environ.get("RANK", "").strip()
    return rank.isascii() and rank.isdigit() and 0 < int(rank) < _world_size()
