"""Results of the Python API: generated images as arrays and as Pillow images; and the reading of images to encode."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ganctl.common import pixels
from ganctl.training.readers.arrays import to_pixels

ImagesLike = ArrayLike | Image.Image | Sequence[Image.Image]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels


@dataclass(frozen=True, eq=False)
class GeneratedImages:
    """Images of a generator.

    Attributes:
        images: uint8 [N, H, W]; [N, H, W, 3] for color, or [N, H, W, 4] for color and transparency (alpha last).
        labels: int64 [N], indices into `class_names`; None for an unconditional generator, and for a walk.
        z: latents, float32 [N, latent_dim]; None if a server generated the images, and for a walk.
        seed: seed of the latents; None if the latents were given.
        columns: of `grid`.
    """

    images: NDArray[np.uint8]
    _: KW_ONLY
    labels: NDArray[np.int64] | None = None
    z: NDArray[np.float32] | None = None
    seed: int | None = None
    columns: int = 10

    def __len__(self) -> int:
        return len(self.images)

    def pil(self) -> list[Image.Image]:
        """The images as Pillow images of mode L, RGB or RGBA."""
        return [Image.fromarray(image) for image in self.images]

    def grid(self, columns: int | None = None, *, scale: int = 1) -> Image.Image:
        """All images in one picture, row by row.

        Args:
            columns: images in a row; None: the length of a text, or 10.
            scale: whole-number enlargement.
        """
        images = self.images if self.images.ndim == 4 else self.images[..., None]
        tiled = pixels.tile(images, min(len(images), columns or self.columns))
        return Image.fromarray(squeeze(pixels.enlarge(tiled, scale)))


@dataclass(frozen=True, eq=False)
class Encoding(GeneratedImages):
    """Images that a generator can make nearest to given ones, and the latents and labels that give them.

    Attributes:
        psnr: peak signal-to-noise ratio of each image in dB, float64 [N]: 10 · log₁₀(255² / MSE), where MSE is the mean
            squared difference of the 8-bit pixels to the given image over all positions and channels. Colors are
            multiplied with alpha before. Equal images have infinity.
    """

    psnr: NDArray[np.float64]


def squeeze(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Removes the last axis of [..., H, W, C] if it has one channel."""
    return images[..., 0] if images.shape[-1] == 1 else images


def psnr(images: NDArray[np.uint8], targets: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each image, float64 [N]; see `Encoding`."""
    squares = (images.astype(np.float64) - targets) ** 2
    with np.errstate(divide="ignore"):  # equal images
        ratios: NDArray[np.float64] = 10 * np.log10(255**2 / squares.reshape(len(images), -1).mean(axis=1))
    return ratios


def read_images(images: ImagesLike, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Converts images to uint8 [N, H, W, C].

    Args:
        images: Pillow images of any mode; or arrays as `to_pixels` accepts them, or one array without the axis N.
        shape: expected shape of an image, (H, W) or (H, W, C).

    Raises:
        ValueError: there are no images, or they have another shape, type or range.
    """
    height, width, channels = (*shape, 1)[:3]
    pictures = [images] if isinstance(images, Image.Image) else images
    if isinstance(pictures, Sequence) and any(isinstance(each, Image.Image) for each in pictures):
        arrays = [np.asarray(each.convert(_MODES[channels])) for each in pictures if isinstance(each, Image.Image)]
        sizes = {array.shape[:2] for array in arrays}
        if len(sizes) > 1:
            raise ValueError(f"images: found several sizes, expected {height} × {width}. Resize them.")
        array = np.stack(arrays)
    else:
        array = np.asarray(images)
        array = array[None] if array.shape in (shape, (height, width, channels), (channels, height, width)) else array
    if len(array) == 0:
        raise ValueError("images: found none, expected one or more.")
    array = to_pixels(array, "images")
    array = array if array.ndim == 4 else array[..., None]
    if array.shape[1:] != (height, width, channels):
        found = " × ".join(map(str, squeeze(array).shape[1:]))
        raise ValueError(f"images: found {found}, expected {' × '.join(map(str, shape))}. Resize or convert them.")
    return array
