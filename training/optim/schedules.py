"""How learning rates and penalties fall over a run: functions of the share of the duration that is behind us."""

import math


def decay(name: str, progress: float, start: float, end: float = 0.0, until: float = 1.0) -> float:
    """1 until `start`, then down to `end` at `until`, where it stays: half a cosine (as SGDR without restarts,
    Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5), a line, or not at all.

    Args:
        name: cosine, linear or constant.
        progress: share of the duration behind us, 0 … 1.
        start: the share after which it begins to fall.
        end: what is left in the end.
        until: the share at which it has fallen; where that is no later than `start`, it falls at once.
    """
    if name == "constant" or progress <= start:
        return 1.0
    done = min(1.0, (progress - start) / (until - start)) if until > start else 1.0
    remaining = 1 - done if name == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return end + (1 - end) * remaining
