"""Statistics of the real images, computed once and compared with any number of generators."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganctl.training.data.base import fixed_permutation
from ganctl.training.evaluation.metrics import (
    Gaussian,
    NeighborRadii,
    class_balance,
    frechet_distance,
    inception_score,
)
from ganctl.training.evaluation.network import ClassifierOutput


@dataclass(frozen=True)
class ReferenceStats:
    """Statistics of N real images, and the scores that real images get themselves."""

    features: Tensor  # float32 [N, F]
    gaussian: Gaussian
    radii: NeighborRadii
    floor: float  # Fréchet distance to N other real images: the value of a perfect generator
    class_balance: float
    inception_score: float

    @staticmethod
    def of(real: ClassifierOutput, other: ClassifierOutput) -> "ReferenceStats":
        """Computes the statistics of N real images; N other real images give the floor."""
        gaussian = Gaussian.fit(real.features)
        return ReferenceStats(
            real.features,
            gaussian,
            NeighborRadii.of(real.features),
            frechet_distance(Gaussian.fit(other.features), gaussian),
            class_balance(real.predictions, real.logits.shape[1]),
            inception_score(real.logits),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The statistics as tensors, exact to the bit; the inverse of `from_tensors`."""
        scores = (self.floor, self.class_balance, self.inception_score)
        return {
            "features": self.features,
            "mean": self.gaussian.mean,
            "covariance": self.gaussian.covariance.contiguous(),
            "precision_recall": self.radii.precision_recall.contiguous(),
            "density_coverage": self.radii.density_coverage.contiguous(),
            "scores": torch.tensor(scores, dtype=torch.float64),
        }

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> "ReferenceStats":
        """Restores statistics from the result of `tensors`."""
        return ReferenceStats(
            tensors["features"],
            Gaussian(tensors["mean"], tensors["covariance"]),
            NeighborRadii(tensors["precision_recall"], tensors["density_coverage"]),
            *tensors["scores"].tolist(),
        )


def subsample(images: Tensor, n: int) -> Tensor:
    """Takes n images (or the labels of the same images) in a fixed pseudo-random order; all, if there are fewer.

    MNIST's files are sorted by groups of writers and repeat with a period: neither the first images nor every k-th
    image are representative.
    """
    return images if n >= len(images) else images[fixed_permutation(len(images))[:n]]


def count_distinct(*sets: Tensor) -> int:
    """Number of distinct images in sets of uint8 images [N, C, H, W]."""
    return len({image.tobytes() for images in sets for image in images.numpy()})
