"""The interface of samplers, which get the images of a request, and the sampler of a local source."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ganctl.common.latents import draw_labels, latents
from ganctl.training.images.source import Source
from ganctl.training.sampling.request import (
    SampleBatch,
    SampleRequest,
    SampleRequestError,
    SampleResult,
    max_batch_images,
)

_GRID_COLUMNS = 10
_MAX_CLASS_COLUMNS = 32  # with --per-class each column is a class, if there are not more classes
Pixels = NDArray[np.uint8]  # [N, H, W, C]
Labels = NDArray[np.int64]  # [N]


class Sampler(Protocol):
    """Samples the batches of a request."""

    def check(self, request: SampleRequest) -> None:
        """Raises SampleRequestError if the sampler cannot fulfill the request, as far as that is known in advance."""

    def count_classes(self) -> int: ...
    def max_images(self) -> int:
        """Largest number of images of a batch."""

    def class_name(self, label: int) -> str:
        """Name of a class for messages."""

    def sample(self, batch: SampleBatch, truncation: float) -> tuple[Pixels, Labels | None]:
        """Samples the images of a batch; returns them with their labels (None if the generator is unconditional)."""


class LocalSampler:
    """Samples from a source, with the same latents and labels as the service for the same seed."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def check(self, request: SampleRequest) -> None:
        """Raises SampleRequestError if the generator is unconditional or lacks a class."""
        flag, names = request.class_flag, self.source.class_names
        if flag and not self.source.conditional:
            raise SampleRequestError(f"{flag}: this generator is unconditional. Leave {flag} out")
        unknown = [name for name in request.class_names if name not in names]
        if unknown:
            raise SampleRequestError(f"{flag} {unknown[0]!r}: expected one of {', '.join(names)}")

    def count_classes(self) -> int:
        """Number of classes."""
        return len(self.source.class_names)

    def max_images(self) -> int:
        """Largest number of images of a batch, as a server of this model has it."""
        label = torch.zeros(1, dtype=torch.int64)
        return max_batch_images(self.source.generate(torch.zeros(1, self.source.latent_dim), label).numel())

    def class_name(self, label: int) -> str:
        """Name of a class."""
        return self.source.class_names[label]

    def class_index(self, cls: int | str) -> int:
        """Index of a class that is given by its index or its name."""
        return cls if isinstance(cls, int) else self.source.class_names.index(cls)

    def sample(self, batch: SampleBatch, truncation: float) -> tuple[Pixels, Labels | None]:
        """Samples the images of a batch; see `Sampler.sample`."""
        classes = np.array([self.class_index(cls) for cls in batch.text or batch.classes], np.int64)
        num_images = batch.count * len(batch.text or " ")
        label = np.resize(classes, num_images) if len(classes) else self.labels(batch.seed, batch.count)
        z = self.latents(batch.seed, batch.count, truncation)
        z = z.repeat_interleave(num_images // batch.count, dim=0)
        images = self.source.generate(z, torch.from_numpy(label)).permute(0, 2, 3, 1).numpy()
        return images, label if self.source.conditional else None

    def latents(self, seed: int, count: int, truncation: float) -> torch.Tensor:
        """Latents of a seed, multiplied by `truncation`: float32 [count, latent_dim]."""
        return torch.from_numpy(latents(seed, count, self.source.latent_dim) * np.float32(truncation))

    def labels(self, seed: int, count: int) -> Labels:
        """Random labels of a seed, int64 [count]."""
        return draw_labels(seed, count, len(self.source.class_names))


def sample_images(request: SampleRequest, sampler: Sampler) -> SampleResult:
    """Samples the images of a request.

    Raises:
        SampleRequestError: the request names an unknown class, or any class of an unconditional generator.
    """
    sampler.check(request)
    classes = sampler.count_classes() if request.per_class else 0
    batches = request.batches(classes, sampler.max_images())
    replies = [sampler.sample(batch, request.truncation) for batch in batches]
    images = np.concatenate([images for images, _ in replies])
    labels = [label for _, label in replies if label is not None]
    columns = classes if 0 < classes <= _MAX_CLASS_COLUMNS else min(len(images), _GRID_COLUMNS)
    if request.text:
        columns = len(request.text)
    return SampleResult(images, np.concatenate(labels) if labels else None, batches[0].seed, columns)
