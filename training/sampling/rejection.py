"""Rejection sampling for `--reject-misread`: keeps only images that the classifier of the data set reads as requested.

A rejected image (or strip of a text, if one of its digits is rejected) is drawn again from other seeds, which follow
from the seed of the request alone. So an accepted image equals the one drawn without --reject-misread, and image i does
not depend on the number of requested images.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from ganctl.training.errors import DataError, TrainingError
from ganctl.training.evaluation.network import Classifier, classify, spatial_positions
from ganctl.training.evaluation.validity import ScorerAccuracy
from ganctl.training.sampling.request import SampleBatch, SampleRequest, SampleRequestError, SampleResult
from ganctl.training.sampling.samplers import Labels, Pixels, Sampler, draw

MAX_REJECTIONS = 500  # consecutive rejections of a class, in images or strips


class MisreadError(TrainingError):
    """The classifier rejects all images of a class."""

    exit_code = 5


class LabelPredictor:
    """Predicts the labels, int64 [N], of images, uint8 [N, H, W, C], with the classifier of a data set.

    Raises:
        DataError: the classifier has learned nothing, or was trained on images of another size.
    """

    def __init__(self, classifier: Classifier, data_name: str) -> None:
        if fault := ScorerAccuracy.of(classifier.metadata, classifier.head.out_features).fault:
            raise DataError(f"--reject-misread: {fault}. Leave --reject-misread out")
        self._classifier, self._data_name = classifier, data_name
        self.classes = classifier.head.out_features

    def __call__(self, images: Pixels) -> Labels:
        first, features = self._classifier.body[0], self._classifier.body[-2]
        assert isinstance(first, torch.nn.Conv2d)
        assert isinstance(features, torch.nn.Linear)
        _, height, width, channels = images.shape
        if (channels, 64 * spatial_positions(height, width)) != (first.in_channels, features.in_features):
            raise DataError(
                f"--reject-misread: found images of {height} × {width} × {channels} (height, width, channels), expected"
                f" those of {self._data_name}, on which the classifier was trained. Name the generator's training data"
                " by --set data.name=…, data.root=…, data.size=… or data.channels=…"
            )
        return classify(self._classifier, torch.from_numpy(images).permute(0, 3, 1, 2)).predictions.numpy()


def draw_accepted(request: SampleRequest, sampler: Sampler, predictor: LabelPredictor) -> SampleResult:
    """Draws images until the predictor reads all of them as requested; `total_drawn` includes the rejected ones.

    Raises:
        SampleRequestError: the generator is unconditional.
        MisreadError: MAX_REJECTIONS consecutive images of a class were rejected.
        DataError: see LabelPredictor.
    """
    result = draw(request, sampler)
    if result.labels is None:
        raise SampleRequestError(
            "--reject-misread: this generator is unconditional, expected a conditional one. Leave the flag out"
        )
    images, labels, unit_size = result.images, result.labels, len(request.text or " ")
    if labels.max() >= predictor.classes:
        raise DataError(
            f"--reject-misread: the generator draws class {labels.max()}, expected a class from 0 to"
            f" {predictor.classes - 1}, on which the classifier was trained. Name the generator's training data by"
            " --set data.name=…"
        )
    counter = _RejectionCounter(request, sampler)
    units = np.arange(len(images) // unit_size)  # indices of the pending images, or strips
    total_drawn, attempt = len(images), 0
    while True:
        rows = (units[:, None] * unit_size + np.arange(unit_size)).ravel()
        accepted = (predictor(images[rows]) == labels[rows]).reshape(-1, unit_size).all(axis=1)
        counter.update(labels[units * unit_size], accepted)
        units = units[~accepted]
        if not len(units):
            return request.result(images, labels, result.seed, total_drawn)
        attempt += 1
        rows = (units[:, None] * unit_size + np.arange(unit_size)).ravel()
        images[rows] = _redraw(request, sampler, labels[units * unit_size], _attempt_seed(result.seed, attempt))
        total_drawn += len(rows)


def _redraw(request: SampleRequest, sampler: Sampler, labels: Labels, seed: int) -> Pixels:
    """Draws one image per label again, or as many strips of the text."""
    batches, limit = [], request.max_latents
    for i, start in enumerate(range(0, len(labels), limit)):
        batch_labels = labels[start : start + limit].tolist()
        classes = () if request.text else batch_labels
        batches.append(SampleBatch(seed + i, len(batch_labels), classes, request.text))
    return np.concatenate([sampler.draw(batch, request.truncation)[0] for batch in batches])


def _attempt_seed(seed: int, attempt: int) -> int:
    """A seed that differs between requests and attempts; at least 2^32 seeds below 2^53 follow it."""
    digest = hashlib.sha256(f"ganctl sample --verified {seed} {attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (2**53 - 2**32)


class _RejectionCounter:
    """Counts the consecutive rejections of each class."""

    def __init__(self, request: SampleRequest, sampler: Sampler) -> None:
        self._request, self._sampler = request, sampler
        self._streaks: dict[int, int] = {}

    def update(self, labels: Labels, accepted: NDArray[np.bool_]) -> None:
        """Counts a round of images; raises MisreadError after MAX_REJECTIONS consecutive rejections of a class."""
        for label in np.unique(labels).tolist():
            hits = accepted[labels == label]
            if hits.any():
                streak = len(hits) - 1 - int(np.flatnonzero(hits)[-1])
            else:
                streak = self._streaks.get(label, 0) + len(hits)
            self._streaks[label] = streak
            if streak >= MAX_REJECTIONS:
                name = repr(self._request.text) if self._request.text else f"class {self._sampler.class_name(label)}"
                raise MisreadError(
                    f"--reject-misread: of {name} the last {streak} images drawn were all rejected, expected some that"
                    " the classifier reads as requested. Train the generator longer, lower --truncation, or leave"
                    " --reject-misread out. If the classifier was trained on other data, name the generator's by --set"
                    " data.name=…"
                )
