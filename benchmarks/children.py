"""Runs a benchmark's measurement in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def python_path() -> str:
    """Returns PYTHONPATH with this project in front."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))


def run_module(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m` with these arguments and this project on the path; captures output, ignores the exit code.

    Args:
        arguments: the module and its arguments.
        environment: variables to add.
    """
    return subprocess.run(
        [sys.executable, "-P", "-m", *arguments],
        env={**os.environ, **(environment or {}), "PYTHONPATH": python_path()},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
