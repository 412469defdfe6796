"""Scores a generator against one split of the real images, always beside the floor: the same score of real images.

An Evaluator judges the real side once; each call then judges fakes. Its random numbers are its own, seeded anew for
each call: scoring never disturbs training, and two generators are scored on the same latents.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from training.config import DataSettings
from training.data import Split, load_split, shuffled
from training.evaluation.classifier import Classifier, Judged, judge, load_classifier
from training.evaluation.metrics import Gaussian, Neighbourhoods, frechet_distance, manifold_scores
from training.sources import Source

MONITORS = ("fd", "label_accuracy")  # the scores that every evaluation during training gives


class Evaluator:
    """Scores fakes against `n` real images of a split."""

    def __init__(
        self,
        data: DataSettings,
        split: Split,
        *,
        n: int,
        device: torch.device | None = None,
        seed: int = 2024,
        announce: Callable[[str], None] = lambda text: None,
        classifier: Classifier | None = None,
    ) -> None:
        """Reads the split and judges `n` of its images (all, where there are fewer), by the data set's classifier."""
        self._data, self._split, self._seed = data, split, seed
        self.classifier = (classifier or load_classifier(data, announce)).to(device or torch.device("cpu"))
        real = load_split(data, split)
        # the floor needs as many other real images: 5,000 validation images where the training split is the real side
        self.n = min(n, len(real), 5000 if split == "train" else len(real))
        self.class_names = real.class_names
        self._real = judge(self.classifier, _some(real.images, self.n))
        self._gaussian = Gaussian.fit(self._real.features)

    @cached_property
    def floor(self) -> float:
        """The Fréchet distance of as many real training images from the split: what a perfect generator would get."""
        other: Split = "val" if self._split == "train" else "train"
        images = _some(load_split(self._data, other).images, self.n)
        return frechet_distance(Gaussian.fit(judge(self.classifier, images).features), self._gaussian)

    @cached_property
    def _neighbourhoods(self) -> Neighbourhoods:
        return Neighbourhoods.of(self._real.features)

    def score(self, source: Source, *, manifold: bool = True) -> dict[str, Any]:
        """Scores `n` images of a generator, as many of each class; see `score_images`."""
        labels = torch.arange(self.n) % len(self.class_names)
        z = torch.randn(self.n, source.z_dim, generator=torch.Generator().manual_seed(self._seed))
        images = source.draw(z, labels)
        return self.score_images(images, labels if source.conditional else None, manifold=manifold)

    def score_images(self, images: Tensor, labels: Tensor | None, *, manifold: bool = True) -> dict[str, Any]:
        """Scores generated images.

        Args:
            images: uint8 [M, C, H, W]; M other than `n` makes the Fréchet distance and its floor hard to compare.
            labels: int64 [M], what was asked for; None for an unconditional generator.
            manifold: whether to compute precision, recall, density and coverage, the slower half.

        Returns:
            fd, fd_floor, label_accuracy and class_accuracy (by class name; both None without labels), n; and where
            asked precision, recall, density, coverage.
        """
        fake = judge(self.classifier, images)
        scores: dict[str, Any] = {"fd": frechet_distance(Gaussian.fit(fake.features), self._gaussian)}
        scores |= {"fd_floor": self.floor} | self._label_scores(fake, labels)
        if manifold:
            scores |= manifold_scores(self._real.features, self._neighbourhoods, fake.features)
        return scores | {"n": len(images)}

    def _label_scores(self, fake: Judged, labels: Tensor | None) -> dict[str, Any]:
        if labels is None:
            return {"label_accuracy": None, "class_accuracy": None}
        hits = (fake.predictions == labels).float()
        present = [(i, name) for i, name in enumerate(self.class_names) if (labels == i).any()]
        by_class = {name: hits[labels == i].mean().item() for i, name in present}
        return {"label_accuracy": hits.mean().item(), "class_accuracy": by_class}


def _some(images: Tensor, n: int) -> Tensor:
    """n images from all over a split: MNIST's files are sorted by groups of writers, and repeat themselves with a
    period, so that neither their first images nor every k-th one are a sample of all."""
    return images if n >= len(images) else images[shuffled(len(images))[:n]]
