"""Closed walks through latent space: from stop to stop, and from the last one back to the first.

Between two stops z goes along the great circle (White 2016, arXiv:1609.04468): a straight line would pass nearer to the
mean, where a normal distribution in many dimensions has nothing. A label goes to the next one as a mixture of both.
"""

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation, White 2016, section 2.1: sin((1−t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b, with the angle Ω
    between a and b. `a` where t = 0, exactly; a straight line where a and b point the same way or opposite ways.

    Args:
        a, b: float [N, D].
        t: [N], 0 … 1.

    Returns:
        float [N, D], of a's type.
    """
    t = t[:, None].double()
    lengths = (a.double().norm(dim=1) * b.double().norm(dim=1)).clamp_min(1e-12)
    angle = ((a.double() * b.double()).sum(dim=1) / lengths).clamp(-1, 1).acos()[:, None]
    straight = angle.sin() < 1e-6
    sine = torch.where(straight, 1.0, angle.sin())
    of_a = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    of_b = torch.where(straight, t, (t * angle).sin() / sine)
    return (of_a * a.double() + of_b * b.double()).to(a.dtype)


def legs(stops: int, frames: int) -> tuple[Tensor, Tensor]:
    """For each frame the stop that it comes from, int64 [frames], and how far it is to the next, [frames] in [0, 1).

    Every stop is a frame; the frames between are spread as evenly as whole numbers can.
    """
    assert 1 <= stops <= frames, f"{stops} stops do not fit into {frames} frames"
    begins = torch.arange(stops + 1) * frames // stops
    lengths = begins.diff()
    origin = torch.arange(stops).repeat_interleave(lengths)
    return origin, (torch.arange(frames) - begins[origin]) / lengths[origin]


def walk_latents(stops: Tensor, frames: int) -> Tensor:
    """Latents of a closed walk through `stops` [S, D]: [frames, D]."""
    origin, t = legs(len(stops), frames)
    return slerp(stops[origin], stops[(origin + 1) % len(stops)], t)


def walk_labels(stops: Tensor, classes: int, frames: int) -> Tensor:
    """Shares of the classes along a closed walk through the labels `stops`, int64 [S]: float32 [frames, classes]."""
    origin, t = legs(len(stops), frames)
    shares = torch.zeros(frames, classes)
    rows = torch.arange(frames)
    shares[rows, stops[origin]] = 1 - t
    shares[rows, stops[(origin + 1) % len(stops)]] += t
    return shares
