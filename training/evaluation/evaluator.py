"""Scores a generator against one split of the real images, and gives the scores of real images for comparison.

An Evaluator computes the statistics of the real images once, and each call then scores generated images. The latents
come from a generator of random numbers that is seeded anew for each call: scoring does not change the random state of
training, and all generators are scored on the same latents.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import Split, premultiply
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.evaluation.cache import TensorCache, images_digest
from ganctl.training.evaluation.metrics import (
    Gaussian,
    class_balance,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_scores,
)
from ganctl.training.evaluation.network import ScorerOutput
from ganctl.training.evaluation.reference_stats import ReferenceStats, count_distinct, subsample
from ganctl.training.evaluation.scorer import Scorer, load_scorer
from ganctl.training.evaluation.validity import find_scorer_fault, mask_invalid_scores, too_few_images
from ganctl.training.images.source import Source

_SEED = 2024  # of the latents of the first draw
_MIN_FLOOR = 1e-6  # as a share of the total variance; a smaller distance is rounding


class Evaluator:
    """Scores generated images against `num_images` real images of a split."""

    def __init__(
        self,
        data: DataSettings,
        split: Split,
        *,
        num_images: int,
        device: torch.device | None = None,
        announce: Callable[[str], None] = lambda text: None,
        scorer: Scorer | None = None,
        cache: TensorCache | None = None,
    ) -> None:
        """Reads the split and computes the statistics of `num_images` of its images (or of all, if it has fewer).

        Args:
            data: the data set.
            split: the split of the real images.
            num_images: number of real images, and of the images that `generate` returns.
            device: of the default scorer; default: the CPU.
            announce: receives progress messages.
            scorer: computes features and label predictions; None for the default scorer of the data set.
            cache: stores the statistics of the real images between processes.

        Raises:
            DataError: two splits have the same images, so that there is no floor.
        """
        self.scorer = scorer or load_scorer(data, device=device, announce=announce)
        self.scorer_fault = find_scorer_fault(self.scorer.skill)
        real, other = load_split(data, split), load_split(data, _other_split(split))
        self.num_images = min(num_images, len(real), len(other))  # the floor needs as many images of the other split
        self.class_names, self._num_classes = real.class_names, real.num_classes
        images, self._labels = subsample(real.images, self.num_images), subsample(real.labels, self.num_images)
        other_images = subsample(other.images, self.num_images)

        def compute() -> dict[str, Tensor]:
            return ReferenceStats.compute(*self.scorer(images), self.scorer(other_images).features)

        inputs = {
            "what": "real side",
            "split": split,
            "num_images": self.num_images,
            "images": images_digest(images),
            "others": images_digest(other_images),
            "measure": self.scorer.measure,
            "scorer": self.scorer.digest,
        }
        self.real = ReferenceStats(cache.get_or_compute(inputs, compute) if cache else compute())
        self._distinct_images = count_distinct(images)
        self._no_floor = self.real.floor <= _MIN_FLOOR * float(self.real.gaussian.covariance.trace())
        if self._no_floor:
            _check_distinct(data, split)

    def generate(self, source: Source, index: int = 0) -> tuple[Tensor, Tensor | None]:
        """Generates `num_images` images with the class frequencies of the real images.

        Args:
            source: the generator.
            index: of the draw; each draw has its own latents.

        Returns:
            images uint8 [N, C, H, W], as in an ImageSet; and their labels int64 [N], None if the generator is
            unconditional.
        """
        z = torch.randn(self.num_images, source.latent_dim, generator=torch.Generator().manual_seed(_SEED + index))
        images = premultiply(source.generate(z, self._labels))
        return images, self._labels if source.conditional else None

    def score(self, source: Source, *, full: bool = True) -> dict[str, Any]:
        """Scores `num_images` images of a generator; see `score_images`."""
        return self.score_images(*self.generate(source), full=full)

    def score_images(self, images: Tensor, labels: Tensor | None, *, full: bool = True) -> dict[str, Any]:
        """Scores generated images. Invalid scores (see `validity.py`) are None.

        Args:
            images: uint8 [M, C, H, W], as in an ImageSet. If M differs from `num_images`, the Fréchet distance is hard
                to compare with its floor.
            labels: int64 [M], the labels that the images were conditioned on; None for an unconditional generator.
            full: whether to compute more than an evaluation during training needs.

        Returns:
            fd, fd_floor and fd_ratio (fd / fd_floor), kid and its standard error kid_se, label_accuracy and
            class_accuracy (by class name; both None without labels), num_images, measure, and the facts of
            `mask_invalid_scores`. With `full` also precision, recall, density, coverage, class_balance and
            inception_score, the last two also for the real images (…_real).
        """
        fake, real = self.scorer(images), self.real
        distance = frechet_distance(Gaussian.fit(fake.features), real.gaussian)
        ratio = None if self._no_floor else distance / real.floor
        kid, kid_error = kernel_distance(fake.features, real.features)
        scores = {"fd": distance, "fd_floor": real.floor, "fd_ratio": ratio, "kid": kid, "kid_se": kid_error}
        scores |= self._label_scores(fake, labels)
        if full:
            scores |= manifold_scores(real.features, real.radii, fake.features)
            scores["class_balance"] = class_balance(fake.predictions, self._num_classes)
            scores["class_balance_real"] = real.class_balance
            scores |= {"inception_score": inception_score(fake.logits), "inception_score_real": real.inception_score}
        return {**self._mask_invalid(scores, len(images)), "num_images": len(images), "measure": self.scorer.measure}

    @property
    def no_summary(self) -> str | None:
        """The reason why these real images give no valid summary of any generator; None if they do."""
        summary: str | None = self._mask_invalid({}, self.num_images)["no_summary"]
        return summary

    def _mask_invalid(self, scores: dict[str, Any], num_generated: int) -> dict[str, Any]:
        too_few = too_few_images(num_generated, self._distinct_images)
        return mask_invalid_scores(
            scores, self.scorer.skill, too_few=too_few, features_need_skill=self.scorer.needs_skill
        )

    def _label_scores(self, fake: ScorerOutput, labels: Tensor | None) -> dict[str, Any]:
        if labels is None:
            return {"label_accuracy": None, "class_accuracy": None}
        hits = (fake.predictions == labels).float()
        present = [(i, name) for i, name in enumerate(self.class_names) if (labels == i).any()]
        by_class = {name: hits[labels == i].mean().item() for i, name in present}
        return {"label_accuracy": hits.mean().item(), "class_accuracy": by_class}


def check_floor(data: DataSettings, split: Split, num_images: int) -> None:
    """Checks in a fraction of a second that an Evaluator will not find copies of the same images as its floor.

    Nearly equal images pass: only the Evaluator, which computes the floor, finds them.

    Raises:
        DataError: the split has the same images as the one that gives the floor.
    """
    real, other = load_split(data, split).images, load_split(data, _other_split(split)).images
    n = min(num_images, len(real), len(other))
    pixels, other_pixels = (sorted(image.tobytes() for image in subsample(x, n).numpy()) for x in (real, other))
    if pixels == other_pixels:
        _check_distinct(data, split)


def _check_distinct(data: DataSettings, split: Split) -> None:
    """Raises the DataError of splits without a floor, unless each class consists of a single image."""
    real, other_split = load_split(data, split), _other_split(split)
    if count_distinct(real.images, load_split(data, other_split).images) > real.num_classes:
        found = f"data.source = '{data.source}': found the same images in the splits {split} and {other_split}"
        raise DataError(f"{found}, so that the scores have no floor. Give each split its own images")


def _other_split(split: Split) -> Split:
    """Returns the split of the real images that give the floor."""
    return "val" if split == "train" else "train"
