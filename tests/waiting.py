"""Waits for other processes and threads: for a condition or an event, never for a fixed time.

PATIENCE only limits a hang; no test measures it.
"""

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 600.0  # seconds
_POLL_INTERVAL = 0.01  # seconds


def wait_for(
    condition: Callable[[], T],
    description: str,
    *,
    process: "subprocess.Popen[Any] | None" = None,
    patience: float = PATIENCE,
) -> T:
    """Polls until the result of `condition` is true, and returns it.

    Args:
        condition: called repeatedly.
        description: names the condition in the message of a failure.
        process: must not end before the condition is true.
        patience: seconds until the wait fails.
    """
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert process is None or process.poll() is None, (description, process.communicate())
        assert time.monotonic() < deadline, f"not true after {patience:g} s: {description}"
        time.sleep(_POLL_INTERVAL)
    return result
