"""The interface of samplers, which get the images of a request. Importing this module does not import torch."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ganctl.training.sampling.request import SampleBatch, SampleRequest, SampleResult

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
