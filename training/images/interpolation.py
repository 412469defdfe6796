"""Closed walks through latents and labels, as tensors."""

import torch
from torch import Tensor

from ganctl.common.interpolation import segments, walk


def walk_latents(keyframes: Tensor, frames: int) -> Tensor:
    """Interpolates a closed walk through the latents `keyframes`, float32 [K, D]: float32 [frames, D]."""
    return torch.from_numpy(walk(keyframes.numpy(), frames))


def walk_labels(keyframes: Tensor, classes: int, frames: int) -> Tensor:
    """Interpolates class weights along a closed walk through the labels `keyframes`, int64 [K].

    Between two keyframes the weights are a linear mixture of both labels.

    Returns:
        float32 [frames, classes]; each row sums to 1.
    """
    origin, progress = map(torch.from_numpy, segments(len(keyframes), frames))
    weights = torch.zeros(frames, classes)
    rows = torch.arange(frames)
    weights[rows, keyframes[origin]] = (1 - progress).float()
    weights[rows, keyframes[(origin + 1) % len(keyframes)]] += progress.float()
    return weights
