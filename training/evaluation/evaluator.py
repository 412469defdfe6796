"""Scores a generator against one split of the real images, always beside what real images get themselves.

An Evaluator judges the real side once; each call then judges fakes. Its random numbers are its own, seeded anew for
each call: scoring never disturbs training, and two generators are scored on the same latents.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import Split
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.evaluation.cache import TensorCache, images_digest
from ganctl.training.evaluation.classifier import Classifier, Judged, judge, load_classifier
from ganctl.training.evaluation.metrics import (
    Gaussian,
    class_balance,
    frechet_distance,
    inception_score,
    manifold_scores,
)
from ganctl.training.evaluation.reference_stats import ReferenceStats, different, some
from ganctl.training.evaluation.validity import ScorerAccuracy, few_images, without_meaningless
from ganctl.training.images.source import Source

_NO_FLOOR = 1e-6  # of the variance: a distance that is rounding


class Features(Protocol):
    """A network whose features are compared in place of the classifier's."""

    digest: str  # of the weights
    device: torch.device

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [N, F] of uint8 images [N, C, H, W], on the CPU."""


class Evaluator:
    """Scores fakes against `num_images` real images of a split."""

    def __init__(
        self,
        data: DataSettings,
        split: Split,
        *,
        num_images: int,
        device: torch.device | None = None,
        seed: int = 2024,
        announce: Callable[[str], None] = lambda text: None,
        classifier: Classifier | None = None,
        features: Features | None = None,
        store: TensorCache | None = None,
    ) -> None:
        """Reads the split and judges `num_images` of its images (all, where there are fewer).

        Args:
            data: the data set, by whose classifier labels are judged.
            split: the real side.
            num_images: real images, and images that `draw` asks for.
            device: where the classifier runs; the CPU where none is given.
            seed: of the latents.
            announce: told of what takes long.
            classifier: the data set's, where it has been read already.
            features: what the images are compared by; the classifier's where none are given.
            store: remembers the real side from one process to the next.

        Raises:
            DataError: two splits have the same images, so that there is no floor.
        """
        self._seed, self._features = seed, features
        self.classifier = (classifier or load_classifier(data, announce)).to(device or torch.device("cpu"))
        other_split: Split = "val" if split == "train" else "train"
        real, other = load_split(data, split), load_split(data, other_split)
        self.num_images = min(num_images, len(real), len(other))  # the floor needs as many other real images
        self.class_names = real.class_names
        images, self._labels = some(real.images, self.num_images), some(real.labels, self.num_images)
        others = some(other.images, self.num_images)

        def compute() -> ReferenceStats:
            return ReferenceStats.of(self._judge(images), self._judge(others))

        if store is None:
            self.real = compute()
        else:
            facts = {
                "what": "real side",
                "split": split,
                "num_images": self.num_images,
                "images": images_digest(images),
                "others": images_digest(others),
                "classifier": weights_digest(self.classifier.state_dict()),
                "features": features.digest if features else "",
                "device": str(features.device if features else device),
            }
            self.real = ReferenceStats.from_tensors(store.get_or_compute(facts, lambda: compute().tensors()))
        self._variety = different(images)
        self._no_floor = self.real.floor <= _NO_FLOOR * float(self.real.gaussian.covariance.trace())
        # where a class is one image alone, equal splits are no mistake
        if self._no_floor and different(real.images, other.images) > len(self.class_names):
            raise DataError(
                f"data.name = '{data.name}': its {split} images look like its {other_split} images to the last pixel"
                f" (Fréchet distance {self.real.floor:.1e}); expected other images of the same kind, which say how good"
                " a generator can be. Give each split images of its own"
            )

    def _judge(self, images: Tensor) -> Judged:
        judged = judge(self.classifier, images)
        return replace(judged, features=self._features(images)) if self._features else judged

    def draw(self, source: Source, draw: int = 0) -> tuple[Tensor, Tensor | None]:
        """`num_images` images of a generator, uint8 [N, C, H, W], as many of each class as there are real ones, and
        what was asked for, int64 [N] (None where it is unconditional). Each number `draw` has latents of its own."""
        labels = self._labels
        z = torch.randn(self.num_images, source.latent_dim, generator=torch.Generator().manual_seed(self._seed + draw))
        return source.draw(z, labels), labels if source.conditional else None

    def score(self, source: Source, *, full: bool = True) -> dict[str, Any]:
        """Scores `num_images` images of a generator; see `score_images`."""
        return self.score_images(*self.draw(source), full=full)

    def score_images(self, images: Tensor, labels: Tensor | None, *, full: bool = True) -> dict[str, Any]:
        """Scores generated images. Scores without a meaning (see `validity.py`) are None.

        Args:
            images: uint8 [M, C, H, W]; M other than `num_images` makes the Fréchet distance and its floor hard to
                compare.
            labels: int64 [M], what was asked for; None for an unconditional generator.
            full: whether to compute more than an evaluation during training needs.

        Returns:
            fd, fd_floor and their ratio fd_ratio, label_accuracy and class_accuracy (by class name; both None
            without labels), num_images, scorer_accuracy, and the reasons scorer_fault and no_summary (None where all is
            well). With `full` also precision, recall, density, coverage, and class_balance and
            inception_score, each of these two with that of the real images (…_real).
        """
        fake, real = self._judge(images), self.real
        scores: dict[str, Any] = {"fd": frechet_distance(Gaussian.fit(fake.features), real.gaussian)}
        times = None if self._no_floor else scores["fd"] / real.floor
        scores |= {"fd_floor": real.floor, "fd_ratio": times}
        scores |= self._label_scores(fake, labels)
        if full:
            scores |= manifold_scores(real.features, real.balls, fake.features)
            scores["class_balance"] = class_balance(fake.predictions, len(self.class_names))
            scores["class_balance_real"] = real.class_balance
            scores |= {"inception_score": inception_score(fake.logits), "inception_score_real": real.inception_score}
        return {**self._with_meaning(scores, len(images)), "num_images": len(images)}

    @property
    def scorer(self) -> ScorerAccuracy:
        """How well the scoring classifier reads held-out images."""
        return ScorerAccuracy.of(self.classifier.notes, len(self.class_names))

    @property
    def no_summary(self) -> str | None:
        """The reason why no generator can be judged by these real images; None where one can."""
        summary: str | None = self._with_meaning({}, self.num_images)["no_summary"]
        return summary

    def _with_meaning(self, scores: dict[str, Any], drawn: int) -> dict[str, Any]:
        few = few_images(drawn, self._variety)
        return without_meaningless(scores, self.scorer, few=few, own_features=self._features is None)

    def _label_scores(self, fake: Judged, labels: Tensor | None) -> dict[str, Any]:
        if labels is None:
            return {"label_accuracy": None, "class_accuracy": None}
        hits = (fake.predictions == labels).float()
        present = [(i, name) for i, name in enumerate(self.class_names) if (labels == i).any()]
        by_class = {name: hits[labels == i].mean().item() for i, name in present}
        return {"label_accuracy": hits.mean().item(), "class_accuracy": by_class}
