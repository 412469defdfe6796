"""`--reject-misread`: only images that the data set's classifier reads as what was asked for, as data with sound
labels.

A rejected image (a strip of a text: one is enough) is drawn anew from seeds of its own, which follow from the order's
seed alone. So an image that is not rejected is the one that comes without --reject-misread, and image i still does not
depend on how many are ordered.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from ganctl.training.errors import DataError, TrainingError
from ganctl.training.evaluation.classifier import Classifier, judge, places_of
from ganctl.training.evaluation.validity import ScorerAccuracy
from ganctl.training.sampling.request import OrderError, Part, SampleRequest, SampleResult
from ganctl.training.sampling.samplers import Labels, Pixels, Sampler, draw

PATIENCE = 500  # images of a class, or strips, that may be rejected in a row


class MisreadError(TrainingError):
    """A generator that does not draw what it is asked for."""

    exit_code = 5


class Reader:
    """Reads images [N, H, W, C] as classes, int64 [N].

    Raises:
        DataError: the classifier has learnt nothing, or the images are not of the size that it has learnt from.
    """

    def __init__(self, classifier: Classifier, data_name: str) -> None:
        if fault := ScorerAccuracy.of(classifier.notes, classifier.head.out_features).fault:
            raise DataError(f"--reject-misread: {fault}; leave --reject-misread out")
        self._classifier, self._data_name = classifier, data_name
        self.classes = classifier.head.out_features

    def __call__(self, images: Pixels) -> Labels:
        first, features = self._classifier.body[0], self._classifier.body[-2]
        assert isinstance(first, torch.nn.Conv2d)
        assert isinstance(features, torch.nn.Linear)
        _, height, width, channels = images.shape
        if (channels, 64 * places_of(height, width)) != (first.in_channels, features.in_features):
            raise DataError(
                f"--reject-misread: the classifier of {self._data_name} cannot read images of {height} × {width} ×"
                f" {channels}"
                " (height, width, channels); name the data that the generator was trained on, by --set data.name=…,"
                " data.root=…, data.size=… or data.channels=…"
            )
        return judge(self._classifier, torch.from_numpy(images).permute(0, 3, 1, 2)).predictions.numpy()


def draw_accepted(order: SampleRequest, sampler: Sampler, reader: Reader) -> SampleResult:
    """Fills an order with images that are read as asked; `drawn` counts all, rejected ones included.

    Raises:
        OrderError: the generator is unconditional: it is not asked for anything.
        MisreadError: one class was misread PATIENCE times in a row.
        DataError: see Reader.
    """
    first = draw(order, sampler)
    if first.labels is None:
        raise OrderError(
            "--reject-misread: this generator is unconditional, so that there is no label to verify; leave it out"
        )
    images, labels, each = first.images, first.labels, len(order.text or " ")
    if labels.max() >= reader.classes:
        raise DataError(
            f"--reject-misread: the generator draws class {labels.max()}, the classifier knows 0 to"
            f" {reader.classes - 1};"
            " name the data that the generator was trained on, by --set data.name=…"
        )
    tally = _Tally(order, sampler)
    units = np.arange(len(images) // each)  # images, or strips
    drawn, attempt = len(images), 0
    while True:
        rows = (units[:, None] * each + np.arange(each)).ravel()
        sound = (reader(images[rows]) == labels[rows]).reshape(-1, each).all(axis=1)
        tally.count(labels[units * each], sound)
        units = units[~sound]
        if not len(units):
            return order.drawn(images, labels, first.seed, drawn)
        attempt += 1
        rows = (units[:, None] * each + np.arange(each)).ravel()
        images[rows] = _again(order, sampler, labels[units * each], _seed(first.seed, attempt))
        drawn += len(rows)


def _again(order: SampleRequest, sampler: Sampler, labels: Labels, seed: int) -> Pixels:
    """One more try for images of these labels, or for as many strips."""
    parts, most = [], order.most_draws
    for i, start in enumerate(range(0, len(labels), most)):
        some = labels[start : start + most].tolist()
        parts.append(Part(seed + i, len(some), () if order.text else some, order.text))
    return np.concatenate([sampler.draw(part, order.truncation)[0] for part in parts])


def _seed(seed: int, attempt: int) -> int:
    """A seed that no other order and attempt come to; 2^32 further ones follow it below 2^53."""
    digest = hashlib.sha256(f"ganctl sample --verified {seed} {attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (2**53 - 2**32)


class _Tally:
    """How many images of each class were rejected since one was accepted."""

    def __init__(self, order: SampleRequest, sampler: Sampler) -> None:
        self._order, self._drawer = order, sampler
        self._streaks: dict[int, int] = {}

    def count(self, labels: Labels, sound: NDArray[np.bool_]) -> None:
        for label in np.unique(labels).tolist():
            hits = sound[labels == label]
            since = (
                len(hits) - 1 - int(np.flatnonzero(hits)[-1]) if hits.any() else self._streaks.get(label, 0) + len(hits)
            )
            self._streaks[label] = since
            if since >= PATIENCE:
                what = repr(self._order.text) if self._order.text else f"class {self._drawer.name(label)}"
                raise MisreadError(
                    f"--reject-misread: of {what} the last {since} images drawn are all read as something else, so the"
                    " order"
                    " cannot be filled. Train the generator longer, lower --truncation, or leave --reject-misread out;"
                    " where"
                    " it was trained on other data than the classifier, name them by --set data.name=…"
                )
