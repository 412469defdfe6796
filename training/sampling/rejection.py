"""Rejection sampling for `--reject-misread`: keeps only images that the classifier of the data set reads as requested.

A rejected image (or strip of a text, if one of its digits is rejected) is sampled again from other seeds, which follow
from the seed of the request alone. So an accepted image equals the one sampled without --reject-misread, and image i
does not depend on the number of requested images.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import premultiply
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError, TrainingError
from ganctl.training.evaluation.scorer import load_scorer
from ganctl.training.evaluation.validity import find_scorer_fault
from ganctl.training.sampling.inspection import NAME_DATA
from ganctl.training.sampling.request import SampleBatch, SampleRequest, SampleRequestError, SampleResult
from ganctl.training.sampling.samplers import Labels, Pixels, Sampler, sample_images

MAX_REJECTIONS = 500  # consecutive rejections of a class, in images or strips


class MisreadError(TrainingError):
    """The classifier rejects all images of a class."""

    exit_code = 5


class LabelPredictor:
    """Predicts the labels, int64 [N], of images, uint8 [N, H, W, C], with the label classifier of a data set.

    Raises:
        DataError: the classifier has learned nothing, or the images have another shape than those of the data set.
    """

    def __init__(self, data: DataSettings, announce: Callable[[str], None] = lambda text: None) -> None:
        self._scorer = load_scorer(data, announce=announce)
        if fault := find_scorer_fault(self._scorer.skill):
            raise DataError(f"--reject-misread: {fault}. Leave --reject-misread out")
        real = load_split(data, "test")
        self._shape, self.classes, self._data_name = real.shape, real.num_classes, data.name

    def __call__(self, images: Pixels) -> Labels:
        _, height, width, channels = images.shape
        if (channels, height, width) != self._shape:
            found = f"found images of {height} × {width} × {channels} (height, width, channels)"
            raise DataError(f"--reject-misread: {found}, expected those of {self._data_name}. {NAME_DATA}")
        pixels = premultiply(torch.from_numpy(images).permute(0, 3, 1, 2))
        return self._scorer(pixels).predictions.numpy()


def sample_accepted(request: SampleRequest, sampler: Sampler, predictor: LabelPredictor) -> SampleResult:
    """Draws images until the predictor reads all of them as requested; `total_drawn` includes the rejected ones.

    Raises:
        SampleRequestError: the generator is unconditional.
        MisreadError: MAX_REJECTIONS consecutive images of a class were rejected.
        DataError: see LabelPredictor.
    """
    result = sample_images(request, sampler)
    if result.labels is None:
        raise SampleRequestError("--reject-misread: this generator is unconditional. Leave the flag out")
    images, labels, unit_size = result.images, result.labels, len(request.text or " ")
    if labels.max() >= predictor.classes:
        found = f"found the class {labels.max()}, expected 0 to {predictor.classes - 1} as in the classifier's data"
        raise DataError(f"--reject-misread: {found}. {NAME_DATA}")
    pending = np.arange(len(images) // unit_size)  # indices of images, or of strips
    streaks = Counter[int]()  # consecutive rejections of each class
    total_drawn = attempt = 0
    while len(pending):
        rows = (pending[:, None] * unit_size + np.arange(unit_size)).ravel()
        classes = labels[pending * unit_size]
        if attempt:
            images[rows] = _redraw(request, sampler, classes, _attempt_seed(result.seed, attempt))
        accepted = (predictor(images[rows]) == labels[rows]).reshape(-1, unit_size).all(axis=1)
        for label, hit in zip(classes.tolist(), accepted.tolist(), strict=True):
            streaks[label] = 0 if hit else streaks[label] + 1
        label, streak = streaks.most_common(1)[0]
        if streak >= MAX_REJECTIONS:
            name = repr(request.text) if request.text else f"class {sampler.class_name(label)}"
            raise MisreadError(
                f"--reject-misread: of {name} the last {streak} images were all rejected. Train the generator longer,"
                f" lower --truncation, or leave --reject-misread out. If the generator has other data: {NAME_DATA}"
            )
        total_drawn, attempt = total_drawn + len(rows), attempt + 1
        pending = pending[~accepted]
    return replace(result, total_drawn=total_drawn)


def _redraw(request: SampleRequest, sampler: Sampler, labels: Labels, seed: int) -> Pixels:
    """Draws one image per label again, or as many strips of the text."""
    batches, limit = [], request.max_latents(sampler.max_images())
    for i, part in enumerate(np.split(labels, range(limit, len(labels), limit))):
        batches.append(SampleBatch(seed + i, len(part), () if request.text else part.tolist(), request.text))
    return np.concatenate([sampler.sample(batch, request.truncation)[0] for batch in batches])


def _attempt_seed(seed: int, attempt: int) -> int:
    """A seed that differs between requests and attempts; at least 2^32 seeds below 2^53 follow it."""
    digest = hashlib.sha256(f"ganctl sample --verified {seed} {attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (2**53 - 2**32)
