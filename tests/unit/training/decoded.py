"""Decodes one image file as a data set does."""

from pathlib import Path
from typing import Literal

import numpy as np

from ganctl.training.data.decode import HighDepthImage, read_image, to_square, white_level


def decode(path: Path, size: int = 28, *, fit: Literal["crop", "pad"] = "crop") -> np.ndarray:
    """Decodes a file to uint8 [4, size, size] with its own white level: red, green, blue (premultiplied), alpha."""
    image = read_image(path.read_bytes())[0]
    if isinstance(image, HighDepthImage):
        image = image.to_eight_bits(white_level(image.value_range().high))
    return to_square(image, size, fit)
