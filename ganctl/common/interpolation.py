"""Closed walks through latent space, by spherical interpolation between keyframes.

Spherical interpolation (White 2016, arXiv:1609.04468, section 2.1) keeps the norm of the latents. A straight line would
pass nearer to the mean, where a normal distribution in many dimensions has almost no samples.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def segments(keyframes: int, frames: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Position of each frame on a closed walk.

    Every keyframe is a frame. The other frames are spread as evenly as whole numbers allow.

    Returns:
        The index of the keyframe before each frame, int64 [frames].
        The fraction of the way to the next keyframe, float64 [frames] in [0, 1).
    """
    assert 1 <= keyframes <= frames, f"frames: found {frames}, expected {keyframes} (the number of keyframes) or more"
    starts = np.arange(keyframes + 1) * frames // keyframes
    lengths = np.diff(starts)
    previous = np.repeat(np.arange(keyframes), lengths)
    return previous, (np.arange(frames) - starts[previous]) / lengths[previous]


def walk(keyframes: Floats, frames: int) -> Floats:
    """Latents of a closed walk, float32 [frames, D], through `keyframes`, float32 [K, D]."""
    previous, fraction = segments(len(keyframes), frames)
    return slerp(keyframes[previous], keyframes[(previous + 1) % len(keyframes)], fraction)


def slerp(a: Floats, b: Floats, t: NDArray[np.float64]) -> Floats:
    """Spherical interpolation, sin((1−t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b, computed in float64.

    Ω is the angle between a and b. Where sin Ω is almost 0, the interpolation is linear.

    Args:
        a: start latents, float32 [N, D].
        b: end latents, float32 [N, D].
        t: fractions of the way from a to b, float64 [N] in [0, 1].

    Returns:
        Latents, float32 [N, D].
    """
    t = t[:, None]
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.maximum(np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1), 1e-12)
    angle = np.arccos(np.clip((a64 * b64).sum(axis=1) / norms, -1, 1))[:, None]
    linear = np.sin(angle) < 1e-6
    sine = np.where(linear, 1.0, np.sin(angle))
    weight_a = np.where(linear, 1 - t, np.sin((1 - t) * angle) / sine)
    weight_b = np.where(linear, t, np.sin(t * angle) / sine)
    return (weight_a * a64 + weight_b * b64).astype(np.float32)
