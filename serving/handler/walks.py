"""Closed walks through latents: from stop to stop along great circles, and from the last one back to the first.

As `ganctl sample` walks: White 2016, arXiv:1609.04468, section 2.1, in double precision.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def walk(stops: Floats, frames: int) -> Floats:
    """float32 [frames, D] through `stops` [S, D], each of which is a frame; those between are spread as evenly as whole
    numbers can."""
    count = len(stops)
    assert 1 <= count <= frames, f"{count} stops do not fit into {frames} frames"
    begins = np.arange(count + 1) * frames // count
    lengths = np.diff(begins)
    origin = np.repeat(np.arange(count), lengths)
    share = (np.arange(frames) - begins[origin]) / lengths[origin]
    return _slerp(stops[origin], stops[(origin + 1) % count], share)


def _slerp(a: Floats, b: Floats, t: NDArray[np.float64]) -> Floats:
    """sin((1−t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b with the angle Ω between them; a straight line where it has no sine."""
    t = t[:, None]
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(wide_a, axis=1) * np.linalg.norm(wide_b, axis=1), 1e-12)
    angle = np.arccos(np.clip((wide_a * wide_b).sum(axis=1) / lengths, -1, 1))[:, None]
    straight = np.sin(angle) < 1e-6
    sine = np.where(straight, 1.0, np.sin(angle))
    of_a = np.where(straight, 1 - t, np.sin((1 - t) * angle) / sine)
    of_b = np.where(straight, t, np.sin(t * angle) / sine)
    return (of_a * wide_a + of_b * wide_b).astype(np.float32)
