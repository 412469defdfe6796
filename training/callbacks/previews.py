"""Preview images from fixed latents, from the current EMA generator."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganctl.training.callbacks.base import Run
from ganctl.training.images.interpolation import walk_latents
from ganctl.training.images.pictures import tile

_STYLES = 8  # rows of the grid, one latent each if conditional
_UNLABELED_COLUMNS = 10
_MAX_CLASSES = 100  # shown; a GIF is at most 65,535 pixels wide, and nobody looks at a thousand grids
_SEED, _CLASS_SEED, _WALK_SEED = 7, 8, 9
_MAX_PER_CLASS, _MIN_PER_CLASS, _MAX_IN_ALL = 25, 4, 500
_WALK_FRAMES, _WALK_KEYFRAMES, _WALK_COLUMNS = 32, 4, 10


def fixed_grid(run: Run) -> NDArray[np.uint8]:
    """Returns the grid of fixed latents, uint8 [H, W, C]: a row per latent, a column per class.

    Of more than 100 classes it shows 100, from the first to the last.
    """
    labels = _shown_classes(len(run.class_names) or _UNLABELED_COLUMNS)
    columns = len(labels)
    if run.config.model.conditional:
        z = _latents(run, _STYLES, _SEED).repeat_interleave(columns, dim=0)
    else:
        z = _latents(run, _STYLES * columns, _SEED)
    return tile(run.source.generate(z, labels.repeat(_STYLES)).numpy(), columns=columns)


def class_grids(run: Run) -> dict[str, NDArray[np.uint8]]:
    """Returns a square grid for each class, uint8 [H, W, C], of up to 25 fixed latents; {} if unconditional.

    The same position has the same latent in all grids. Of more than 100 classes it shows 100.
    """
    if not run.config.model.conditional:
        return {}
    labels = _shown_classes(len(run.class_names))
    classes = len(labels)
    per_class = max(_MIN_PER_CLASS, min(_MAX_PER_CLASS, _MAX_IN_ALL // classes))
    z = _latents(run, per_class, _CLASS_SEED).repeat(classes, 1)
    images = run.source.generate(z, labels.repeat_interleave(per_class)).numpy()
    columns, by_class = math.isqrt(per_class - 1) + 1, np.split(images, classes)
    names = [run.class_names[label] for label in labels.tolist()]
    return {name: tile(rows, columns=columns) for name, rows in zip(names, by_class, strict=True)}


def walk(run: Run) -> list[NDArray[np.uint8]]:
    """Returns the frames of a closed walk through latent space, uint8 [H, W, C] each, as a row of images.

    Conditional: up to ten classes, all with the same latent. Unconditional: ten different walks.
    """
    conditional = run.config.model.conditional
    columns = min(len(run.class_names), _WALK_COLUMNS) if conditional else _WALK_COLUMNS
    walks = 1 if conditional else columns
    keyframes = _latents(run, walks * _WALK_KEYFRAMES, _WALK_SEED).view(walks, _WALK_KEYFRAMES, -1)
    paths = torch.stack([walk_latents(latents, _WALK_FRAMES) for latents in keyframes], dim=1)  # [frames, walks, D]
    z = paths.expand(-1, columns, -1).flatten(0, 1)
    images = run.source.generate(z, torch.arange(columns).repeat(_WALK_FRAMES)).numpy()
    return [tile(row, columns=columns) for row in np.split(images, _WALK_FRAMES)]


def _shown_classes(classes: int) -> Tensor:
    """Returns the classes to show, int64 [up to 100]: all, or evenly spaced ones."""
    shown = min(classes, _MAX_CLASSES)
    return torch.arange(shown) * (classes - 1) // max(1, shown - 1)


def _latents(run: Run, n: int, seed: int) -> Tensor:
    """Draws standard normal latents [n, latent_dim]; the random state of training does not change."""
    return torch.randn(n, run.generator.latent_dim, generator=torch.Generator().manual_seed(seed))
