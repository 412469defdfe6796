"""How tests wait for other processes and threads: for a condition or an event, never for a time.

PATIENCE only bounds a hang. No test passes or fails by how much of it is used.
"""

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 600.0  # seconds
_LOOK_EVERY = 0.01  # seconds


def wait_for(
    condition: Callable[[], T], what: str, *, process: "subprocess.Popen[Any] | None" = None, patience: float = PATIENCE
) -> T:
    """Returns what `condition` gives once that is true; `what` names it in the message of a failure.

    process: one that must not end meanwhile, as the condition could then never come true.
    """
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert process is None or process.poll() is None, (what, process.communicate())
        assert time.monotonic() < deadline, f"waited {patience:g} s in vain: {what}"
        time.sleep(_LOOK_EVERY)
    return found
