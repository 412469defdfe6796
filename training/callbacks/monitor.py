"""The monitored score of early stopping and of the ranking of checkpoints."""

import math
from collections.abc import Mapping
from typing import Any


class Monitor:
    """Reads one score of an evaluation; `sign` is 1 if a lower score is better, -1 if a higher score is better."""

    def __init__(self, name: str, mode: str) -> None:
        """Takes the settings `monitor` and `mode`; `auto` prefers lower distances, and higher other scores."""
        self.name = name
        self.sign = 1 if mode == "min" or (mode == "auto" and name in ("fd", "fd_ratio", "kid")) else -1

    def score(self, scores: Mapping[str, Any]) -> float | None:
        """Returns the monitored score; None if it is None, NaN or infinite."""
        value = scores[self.name]
        return float(value) if value is not None and math.isfinite(value) else None
