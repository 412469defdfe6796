"""Processes of ganctl: the command line of a child, the ranks that train together, and the end of a process."""

import atexit
import os
import sys
from pathlib import Path
from typing import NoReturn

from ganctl import import_path
from ganctl.signals import stop_unwinding


def program(*words: str) -> list[str]:
    """The command line of a `ganctl` command: this very ganctl, whatever the current folder holds."""
    return [sys.executable, str(Path(import_path.PACKAGE) / "__main__.py"), *words]


def end(code: int) -> NoReturn:
    """Ends the process. One of several ranks skips the interpreter's own farewell: threads of gloo that are still at
    work then abort the process at times, and torchrun would take a finished rank for a killed one."""
    stop_unwinding()
    if _number_of_ranks() <= 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _number_of_ranks() -> int:
    """Number of processes that train together, from WORLD_SIZE."""
    size = os.environ.get("WORLD_SIZE", "").strip()
    return int(size) if size.isascii() and size.isdigit() else 1


def is_later_rank() -> bool:
    """Checks for a rank above 0 among several. A RANK without WORLD_SIZE means nothing."""
    rank = os.environ.get("RANK", "").strip()
    return rank.isascii() and rank.isdigit() and 0 < int(rank) < _number_of_ranks()
