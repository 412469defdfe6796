"""One image file as the pixels that a data set would have."""

from pathlib import Path

import numpy as np

from ganctl.training.data.decode import HighDepthImage, read_image, to_square, white_level


def decode(path: Path, size: int, *, gray: bool) -> np.ndarray:
    """An image file as uint8 [3, size, size] (three equal channels with `gray`), by this image's own white level."""
    image = read_image(path)[0]
    if isinstance(image, HighDepthImage):
        image = image.to_eight_bits(white_level(image.value_range().high))
    return to_square(image, size, gray=gray)
