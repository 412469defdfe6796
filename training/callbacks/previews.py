"""What is looked at at each evaluation: always the same latents, drawn by the generator as it is by then."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganctl.training.callbacks.base import Run
from ganctl.training.images.interpolation import walk_latents
from ganctl.training.images.pictures import tile

STYLES = 8  # rows of the grid: one latent each
_SEED, _CLASS_SEED, _WALK_SEED = 7, 8, 9
_MOST_OF_A_CLASS, _LEAST_OF_A_CLASS, _OF_ALL_CLASSES = 25, 4, 500
_WALK_FRAMES, _WALK_STOPS, _WALK_COLUMNS = 32, 4, 10


def fixed_grid(run: Run) -> NDArray[np.uint8]:
    """The fixed latents as one picture, uint8 [H, W, C]: a row for each style, a column for each class."""
    classes = len(run.class_names)
    if run.config.model.conditional:
        z = _latents(run, STYLES, _SEED).repeat_interleave(classes, dim=0)
    else:
        z = _latents(run, STYLES * classes, _SEED)
    return tile(run.draw(z, torch.arange(classes).repeat(STYLES)).numpy(), columns=classes)


def class_grids(run: Run) -> dict[str, NDArray[np.uint8]]:
    """For each class (none, where the generator is unconditional) a square picture of it, uint8 [H, W, C], of up to 25
    latents; the same place has the same latent in all of them."""
    if not run.config.model.conditional:
        return {}
    classes = len(run.class_names)
    each = max(_LEAST_OF_A_CLASS, min(_MOST_OF_A_CLASS, _OF_ALL_CLASSES // classes))
    z = _latents(run, each, _CLASS_SEED).repeat(classes, 1)
    images = run.draw(z, torch.arange(classes).repeat_interleave(each)).numpy()
    columns = math.isqrt(each - 1) + 1
    return {name: tile(images[i * each : (i + 1) * each], columns=columns) for i, name in enumerate(run.class_names)}


def walk(run: Run) -> list[NDArray[np.uint8]]:
    """A closed walk through latent space, as pictures uint8 [H, W, C] in a row: up to ten classes side by side, all in
    the one handwriting that changes; where the generator is unconditional, ten walks of their own."""
    conditional = run.config.model.conditional
    columns = min(len(run.class_names), _WALK_COLUMNS) if conditional else _WALK_COLUMNS
    walks = 1 if conditional else columns
    stops = _latents(run, walks * _WALK_STOPS, _WALK_SEED).view(walks, _WALK_STOPS, -1)
    paths = torch.stack([walk_latents(each, _WALK_FRAMES) for each in stops], dim=1)  # [frames, walks, D]
    z = paths.expand(-1, columns, -1).flatten(0, 1)
    images = run.draw(z, torch.arange(columns).repeat(_WALK_FRAMES)).numpy()
    return [tile(row, columns=columns) for row in np.split(images, _WALK_FRAMES)]


def _latents(run: Run, n: int, seed: int) -> Tensor:
    """Standard normal latents [n, latent_dim] of a stream of their own: a look never uses up the training's numbers."""
    return torch.randn(n, run.generator.latent_dim, generator=torch.Generator().manual_seed(seed))
