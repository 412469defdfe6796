"""Closed walks through latent space: from keyframe to keyframe, and from the last one back to the first.

Between two keyframes z follows the great circle (White 2016, arXiv:1609.04468, section 2.1): a straight line would pass
nearer to the mean, where a normal distribution in many dimensions has almost no samples.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def segments(keyframes: int, frames: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each frame the keyframe before it, int64 [frames], and the share of the way to the next, [frames] in [0, 1).

    Every keyframe is a frame; the frames between are spread as evenly as whole numbers allow.
    """
    assert 1 <= keyframes <= frames, f"{keyframes} keyframes do not fit into {frames} frames"
    starts = np.arange(keyframes + 1) * frames // keyframes
    lengths = np.diff(starts)
    origin = np.repeat(np.arange(keyframes), lengths)
    return origin, (np.arange(frames) - starts[origin]) / lengths[origin]


def walk(keyframes: Floats, frames: int) -> Floats:
    """Latents of a closed walk, float32 [frames, D], through `keyframes` [K, D]."""
    origin, share = segments(len(keyframes), frames)
    return slerp(keyframes[origin], keyframes[(origin + 1) % len(keyframes)], share)


def slerp(a: Floats, b: Floats, t: NDArray[np.float64]) -> Floats:
    """Spherical interpolation, float32 [N, D]: sin((1−t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b, in double precision.

    Ω is the angle between a and b, float32 [N, D]; where it has no sine the way is a straight line. t is [N], 0 … 1.
    """
    t = t[:, None]
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(wide_a, axis=1) * np.linalg.norm(wide_b, axis=1), 1e-12)
    angle = np.arccos(np.clip((wide_a * wide_b).sum(axis=1) / lengths, -1, 1))[:, None]
    straight = np.sin(angle) < 1e-6
    sine = np.where(straight, 1.0, np.sin(angle))
    of_a = np.where(straight, 1 - t, np.sin((1 - t) * angle) / sine)
    of_b = np.where(straight, t, np.sin(t * angle) / sine)
    return (of_a * wide_a + of_b * wide_b).astype(np.float32)
