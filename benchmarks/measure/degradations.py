"""Degradations of real images, in steps that each look worse than the one before.

Images are uint8 [N, C, H, W], as in an ImageSet: with 4 channels the colors are multiplied with alpha.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ganctl.training.data.base import ImageSet

SEED = 24
_REFERENCE_SIDE = 32  # pixels, for which the radii of the blur are given


@dataclass(frozen=True)
class Family:
    """A series of image sets, and the direction in which each score must change along it.

    Attributes:
        name: for the table.
        levels: names of the sets.
        sets: image sets by level.
        rising, falling: the scores that must rise and fall from each level to the next.
    """

    name: str
    levels: tuple[str, ...]
    sets: tuple[ImageSet, ...]
    rising: tuple[str, ...]
    falling: tuple[str, ...]


_WORSE_IMAGES = {"rising": ("fd", "kid"), "falling": ("precision", "recall", "density", "coverage")}
_LESS_VARIETY = {"rising": ("fd", "kid"), "falling": ("recall", "coverage")}


def degradations(real: ImageSet, train: ImageSet) -> Iterator[Family]:
    """Returns the families for real images that the scores are not compared with; `train` gives the copies."""
    generator = torch.Generator().manual_seed(SEED)
    degrade: dict[str, tuple[Callable[[Tensor, float], Tensor], dict[str, float]]] = {
        "blur, σ in pixels of 32": (_blur, {"0.5": 0.5, "0.8": 0.8, "1.2": 1.2, "2": 2.0}),
        "noise, σ of 255": (partial(_noise, generator=generator), {"6": 6.0, "14": 14.0, "30": 30.0, "60": 60.0}),
        "JPEG, quality": (_jpeg, {"60": 60, "30": 30, "15": 15, "5": 5}),
    }
    for name, (change, levels) in degrade.items():
        sets = [real, *(replace(real, images=_valid(change(real.images, value))) for value in levels.values())]
        yield Family(name, ("none", *levels), tuple(sets), **_WORSE_IMAGES)
    shares = {"10 %": 0.1, "30 %": 0.3, "50 %": 0.5, "80 %": 0.8}
    if real.num_classes > 1:
        # by the number of missing classes: with few classes, several shares are the same number
        missing = {min(real.num_classes - 1, max(1, round(s * real.num_classes))): name for name, s in shares.items()}
        sets = [real, *(_drop_classes(real, count) for count in missing)]
        yield Family("missing classes", ("none", *missing.values()), tuple(sets), **_LESS_VARIETY)
        sets = [real, *(_swap_labels(real, share, generator) for share in shares.values())]
        yield Family("wrong labels", ("none", *shares), tuple(sets), (), ("label_accuracy",))
    kept = {"50 %": 0.5, "20 %": 0.2, "5 %": 0.05, "1 %": 0.01}
    sets = [real, *(_repeat(real, share) for share in kept.values())]
    yield Family("different images", ("100 %", *kept), tuple(sets), **_LESS_VARIETY)
    sets = [real, *(_copy(real, train, share) for share in shares.values())]
    yield Family("copies of training images", ("none", *shares), tuple(sets), ("share_closer",), ())


def _valid(images: Tensor) -> Tensor:
    """Limits colors to alpha, with which they are multiplied; images without alpha are unchanged."""
    return images if images.shape[1] < 4 else torch.cat([images[:, :3].minimum(images[:, 3:]), images[:, 3:]], dim=1)


def _blur(images: Tensor, sigma: float) -> Tensor:
    sigma = sigma * images.shape[-1] / _REFERENCE_SIDE
    blurred: Tensor = gaussian_blur(images, [2 * int(3 * sigma + 0.5) + 1] * 2, [sigma, sigma])
    return blurred


def _noise(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    noisy = images + sigma * torch.randn(images.shape, generator=generator)
    return noisy.round().clamp(0, 255).to(torch.uint8)


def _jpeg(images: Tensor, quality: float) -> Tensor:
    """Compresses colors and alpha, which JPEG does not know, each on its own."""
    parts = [images] if images.shape[1] < 4 else [images[:, :3], images[:, 3:]]
    return torch.cat([torch.stack([_jpeg_image(image, int(quality)) for image in part]) for part in parts], dim=1)


def _jpeg_image(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    decoded = np.array(Image.open(file))
    return torch.from_numpy(decoded[None] if decoded.ndim == 2 else decoded.transpose(2, 0, 1))


def _rows(data: ImageSet, rows: Tensor) -> ImageSet:
    return replace(data, images=data.images[rows], labels=data.labels[rows])


def _drop_classes(data: ImageSet, count: int) -> ImageSet:
    """Replaces the images of the first `count` classes by images of the others."""
    kept = (data.labels >= count).nonzero().squeeze(1)
    return _rows(data, kept[torch.arange(len(data)) % len(kept)])


def _repeat(data: ImageSet, share: float) -> ImageSet:
    """Repeats a share of the images to the same number."""
    return _rows(data, torch.arange(len(data)) % max(2, round(share * len(data))))


def _swap_labels(data: ImageSet, share: float, generator: torch.Generator) -> ImageSet:
    """Gives a share of the images another label."""
    shift = torch.randint(1, data.num_classes, data.labels.shape, generator=generator)
    swapped = torch.arange(len(data)) < round(share * len(data))
    return replace(data, labels=torch.where(swapped, (data.labels + shift) % data.num_classes, data.labels))


def _copy(data: ImageSet, train: ImageSet, share: float) -> ImageSet:
    """Replaces a share of the images by training images."""
    copied = min(round(share * len(data)), len(train))
    images = torch.cat([train.images[:copied], data.images[copied:]])
    return replace(data, images=images, labels=torch.cat([train.labels[:copied], data.labels[copied:]]))
