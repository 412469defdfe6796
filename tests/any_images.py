"""Small sets of other images than MNIST's, and runs on them that are not trained."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ganctl.training.checkpoint.format import write_checkpoint
from ganctl.training.loop.session import Session
from tests.conftest import SMALL

COLORS = ((220, 40, 30), (40, 160, 60), (50, 80, 230))


def disks(n: int, size: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Disks with soft edges on a transparent background, uint8 [n, size, size, 4]; the colors follow in turn."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    images = np.zeros((n, size, size, 4), np.uint8)
    for i in range(n):
        y, x = rng.uniform(0.35 * size, 0.65 * size, 2)
        distance = np.hypot(rows - y, columns - x)
        images[i, ..., 3] = 255 * np.clip((rng.uniform(0.2, 0.35) * size - distance) / 3 + 0.5, 0, 1)
        images[i, ..., :3] = np.clip(COLORS[i % len(COLORS)] + rng.integers(-30, 30, 3), 0, 255)
    return images


def save_folder(folder: Path, images: NDArray[np.uint8], *, suffix: str = ".png", labeled: bool = False) -> Path:
    """Writes images into a folder; with labels, into a folder for each color of `disks`."""
    for i, image in enumerate(images):
        path = folder / (f"color {i % len(COLORS)}" if labeled else ".") / f"{i:04}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def untrained_run(folder: Path, source: Path, *assignments: str, contrast: float = 1.0, alpha: float = 0.0) -> Path:
    """Writes a run on the images at `source` with the checkpoint `best` of a generator that has not been trained.

    Args:
        folder: the folder of the run.
        source: the data set.
        assignments: further settings.
        contrast: factor of the last layer's weights: its images are noise around gray.
        alpha: added to the last layer's biases for alpha.
    """
    settings = [*SMALL, f"data.source={source}", "data.num_workers=0", "train.batch_size=8", *assignments]
    state = Session(preset="conv", assignments=settings, run_dir=folder).build().state_dict()
    weights = state["networks"]["ema"]
    weights["net.5.weight"] *= contrast
    weights["net.5.bias"][12:] += torch.tensor(alpha)
    (folder / "checkpoints").mkdir(parents=True)
    write_checkpoint(folder / "checkpoints/best.safetensors", state)
    return folder
