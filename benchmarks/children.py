"""Starts what is measured in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def run_module(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """`python -m` these words, with this project importable; its output is kept, its exit code is not looked at."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", *words]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
