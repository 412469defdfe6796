"""Measures how much other processes use the CPU cores, and advises a number of threads."""

import math
import os
import time
from pathlib import Path

from ganctl.processes import core_numbers
from ganctl.training.device.turns import others_take_turns

_MIN_SECONDS = 0.5  # /proc/stat counts hundredths of a second
_MIN_LOAD = 0.5  # cores; less slows a training little
_TOLERANCE = 0.25  # cores: short processes come and go


class CoreLoad:
    """The load of this process's cores since the object was created."""

    def __init__(self) -> None:
        self._start = _read()

    def of_others(self) -> float:
        """Returns how many cores other processes used on average; 0 after a short time, or outside Linux."""
        seconds, used, own = (end - start for start, end in zip(self._start, _read(), strict=True))
        return max(0.0, (used - own) / seconds) if seconds >= _MIN_SECONDS else 0.0

    def advice(self) -> str | None:
        """Returns a message if fewer threads are faster beside these processes, and they take no turns; else None."""
        import torch  # late: its import is part of the measured time

        advice = advise_threads(self.of_others(), torch.get_num_threads())
        return None if advice is None or others_take_turns() else advice


def advise_threads(others: float, threads: int) -> str | None:
    """Returns a message if fewer threads are faster beside processes that use `others` cores; else None.

    Threads wait for each other in each step, so one that shares a core delays all.
    """
    cores = len(core_numbers())
    fitting = max(1, cores - math.ceil(others - _TOLERANCE))
    if others < _MIN_LOAD or fitting >= threads:
        return None
    return (
        f"other processes use {others:.1f} of {cores} cores, and {threads} threads wait for each other in each step:"
        f" OMP_NUM_THREADS={fitting} may be faster"
    )


def _read() -> tuple[float, float, float]:
    """Returns the time, and the CPU time of all processes on the cores and of this one with its children; seconds."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    names, used = {f"cpu{core}" for core in core_numbers()}, 0.0
    try:
        lines = Path("/proc/stat").read_text("ascii").splitlines()
    except OSError:
        return time.monotonic(), own, own
    for name, *ticks in (line.split() for line in lines):
        if name in names:
            user, nice, system, _, _, irq, soft_irq = map(int, ticks[:7])
            used += (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), used, own
