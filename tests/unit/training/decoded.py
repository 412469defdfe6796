"""Decodes one image file as a data set does."""

from pathlib import Path

import numpy as np

from ganctl.training.data.decode import HighDepthImage, read_image, to_square, white_level


def decode(path: Path, size: int, *, gray: bool) -> np.ndarray:
    """Decodes a file to uint8 [3, size, size] with its own white level; with `gray`, the three channels are equal."""
    image = read_image(path)[0]
    if isinstance(image, HighDepthImage):
        image = image.to_eight_bits(white_level(image.value_range().high))
    return to_square(image, size, gray=gray)
