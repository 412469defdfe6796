"""Closed walks through latents and labels, as tensors."""

import torch
from torch import Tensor

from ganctl.common.interpolation import segments, walk


def walk_latents(keyframes: Tensor, frames: int) -> Tensor:
    """Latents of a closed walk through `keyframes` float32 [K, D]: float32 [frames, D]."""
    return torch.from_numpy(walk(keyframes.numpy(), frames))


def walk_labels(keyframes: Tensor, classes: int, frames: int) -> Tensor:
    """Shares of the classes along a closed walk through the labels `keyframes`, int64 [K]: float32 [frames, classes].

    A label becomes the next one as a mixture of both.
    """
    origin, share = map(torch.from_numpy, segments(len(keyframes), frames))
    shares = torch.zeros(frames, classes)
    rows = torch.arange(frames)
    shares[rows, keyframes[origin]] = (1 - share).float()
    shares[rows, keyframes[(origin + 1) % len(keyframes)]] += share.float()
    return shares
