"""Starts child commands, counts cores, identifies ranks from environment variables, and exits a process."""

import atexit
import os
import sys
from pathlib import Path
from typing import NoReturn

from ganctl import import_path
from ganctl.signals import stop_unwinding


def ganctl_command(*arguments: str) -> list[str]:
    """Returns the command line that runs a `ganctl` command of this installation, from any folder."""
    return [sys.executable, str(Path(import_path.PACKAGE) / "__main__.py"), *arguments]


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
