"""Decay schedules of learning rates and penalties, as functions of a run's progress."""

import math


def decay(name: str, progress: float, start: float, final_factor: float = 0.0, end: float = 1.0) -> float:
    """A factor that is 1 until `start`, falls to `final_factor` at `end`, and then stays there.

    It falls by half a cosine (SGDR without restarts, Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5) or linearly.

    Args:
        name: cosine, linear or constant; constant always returns 1.
        progress: completed fraction of the run's duration, 0 … 1.
        start: progress at which the decay starts.
        final_factor: the factor from `end` on.
        end: progress at which the decay ends; if it is not after `start`, the factor falls at once.
    """
    if name == "constant" or progress <= start:
        return 1.0
    done = min(1.0, (progress - start) / (end - start)) if end > start else 1.0
    remaining = 1 - done if name == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return final_factor + (1 - final_factor) * remaining
