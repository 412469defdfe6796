"""Requests and results of `ganctl sample`; splits a request into batches, which a server answers one by one."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganctl.common.text import nfc
from ganctl.training.errors import TrainingError

# limits of a batch; the service has the same limits per reply
_MAX_IMAGES = 256
_MAX_VALUES = 1 << 22  # images × channels × height × width

# of an animation
FRAMES_PER_KEYFRAME = 24
DEFAULT_KEYFRAMES = 8  # if a single image is requested


class SampleRequestError(TrainingError, ValueError):
    """A request that the source cannot fulfill; the message names the flag."""

    exit_code = 2


def max_batch_images(values: int) -> int:
    """Returns the largest number of images per batch for images of `values` = channels × height × width."""
    return max(1, min(_MAX_IMAGES, _MAX_VALUES // values))


@dataclass(frozen=True)
class SampleResult:
    """The images of a request."""

    images: NDArray[np.uint8]  # [N, H, W, C]
    labels: NDArray[np.int64] | None  # [N]
    seed: int
    columns: int  # of the grid in a picture file
    total_drawn: int | None = None  # number of sampled images, including rejected ones; None without rejection


@dataclass(frozen=True)
class SampleBatch:
    """A part of a request that fits into one reply: `count` latents from `seed`.

    `classes` (indices or names) are repeated over the latents. A text is sampled whole for each latent. Without either,
    the labels follow from the seed.
    """

    seed: int
    count: int
    classes: Sequence[int | str] = ()
    text: str | None = None


@dataclass(frozen=True)
class SampleRequest:
    """The images to sample; the fields are the flags of `ganctl sample`. Class names and text are normalized to NFC.

    A request that exceeds the limit of one reply is split into batches with consecutive seeds, for a server and for a
    local source alike, so that both give the same images.

    Raises:
        SampleRequestError: a class name or the text is not UTF-8.
    """

    labels: tuple[str, ...] = ()
    text: str | None = None
    count: int | None = None
    per_class: int | None = None
    seed: int | None = None
    truncation: float = 1.0
    reject_misread: bool = False

    def __post_init__(self) -> None:
        for flag, text in (*(("--label", name) for name in self.labels), ("--text", self.text or "")):
            try:
                text.encode()
            except UnicodeEncodeError:  # bytes of another encoding on the command line
                raise SampleRequestError(f"{flag} {text!r}: it is not UTF-8, expected class names in UTF-8") from None
        object.__setattr__(self, "labels", tuple(map(nfc, self.labels)))
        object.__setattr__(self, "text", None if self.text is None else nfc(self.text))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The requested classes in order, from the labels or the text."""
        return self.labels or tuple(self.text or "")

    @property
    def class_flag(self) -> str | None:
        """The first given flag that needs a conditional generator, or None."""
        given = {
            "--label": self.labels,
            "--text": self.text,
            "--per-class": self.per_class,
            "--reject-misread": self.reject_misread,
        }
        return next((flag for flag, value in given.items() if value), None)

    def max_latents(self, max_images: int) -> int:
        """Maximum number of latents per batch of `max_images` images."""
        return max(1, max_images // len(self.text)) if self.text else max_images

    def batches(self, num_classes: int, max_images: int) -> list[SampleBatch]:
        """Splits the request into batches of `max_images` images; with `per_class` it covers all `num_classes` classes.

        Raises:
            SampleRequestError: a seed of a batch would exceed 2^53 − 1.
        """
        classes: Sequence[int | str] = range(num_classes) if self.per_class else self.labels
        total = self.per_class * len(classes) if self.per_class else self.count or len(classes) or 1
        batches, done = [], 0
        for seed, count in self.seeds(total, max_images):
            rotated = [classes[(done + i) % len(classes)] for i in range(min(count, len(classes)))]
            batches.append(SampleBatch(seed, count, rotated, self.text))
            done += count
        return batches

    def seeds(self, total: int, max_images: int) -> list[tuple[int, int]]:
        """Splits `total` latents into batches of `max_images` images; returns the seed and the latents of each.

        Raises:
            SampleRequestError: a seed of a batch would exceed 2^53 − 1.
        """
        # random seeds below 2^52 leave room for the consecutive seeds of further batches
        seed = secrets.randbelow(2**52) if self.seed is None else self.seed
        limit = self.max_latents(max_images)
        if seed + (total - 1) // limit >= 2**53:
            raise SampleRequestError(f"--seed {seed}: {total} images need seeds beyond 2^53 - 1. Take a smaller one")
        return [(seed + i, min(limit, total - start)) for i, start in enumerate(range(0, total, limit))]
