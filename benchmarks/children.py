"""Runs a benchmark's measurement in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def run_module(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs `python -m` with these arguments and this project on the path; captures output, ignores the exit code."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", *arguments]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
