"""Statistics of the real images, computed once and compared with any number of generators."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ganctl.training.data.base import fixed_permutation
from ganctl.training.evaluation.metrics import Gaussian, NeighborRadii, class_balance, frechet_distance, inception_score


class ReferenceStats:
    """Statistics of N real images, and the scores that real images get themselves.

    Attributes:
        features: float32 [N, F].
        gaussian: fitted to the features.
        radii: of the features.
        floor: Fréchet distance to N other real images: the value of a perfect generator.
        class_balance, inception_score: of the real images.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Reads the result of `compute`."""
        self.features = tensors["features"]
        self.gaussian = Gaussian(tensors["mean"], tensors["covariance"])
        self.radii = NeighborRadii(tensors["precision_recall"], tensors["density_coverage"])
        self.floor, self.class_balance, self.inception_score = tensors["scores"].tolist()

    @staticmethod
    def compute(features: Tensor, logits: Tensor, other_features: Tensor) -> dict[str, Tensor]:
        """The statistics of N real images, as tensors to cache.

        Args:
            features: [N, F].
            logits: [N, classes].
            other_features: of N other real images, which give the floor.
        """
        gaussian, radii = Gaussian.fit(features), NeighborRadii.of(features)
        floor = frechet_distance(Gaussian.fit(other_features), gaussian)
        scores = (floor, class_balance(logits.argmax(dim=1), logits.shape[1]), inception_score(logits))
        return {
            "features": features,
            "mean": gaussian.mean,
            "covariance": gaussian.covariance.contiguous(),
            "precision_recall": radii.precision_recall.contiguous(),
            "density_coverage": radii.density_coverage.contiguous(),
            "scores": torch.tensor(scores, dtype=torch.float64),
        }


def subsample(images: Tensor, n: int) -> Tensor:
    """Takes n images (or the labels of the same images) in a fixed pseudo-random order; all, if there are fewer.

    MNIST's files are sorted by groups of writers and repeat with a period: neither the first images nor every k-th
    image are representative.
    """
    return images if n >= len(images) else images[fixed_permutation(len(images))[:n]]


def count_distinct(*sets: Tensor) -> int:
    """Number of distinct images in sets of uint8 images [N, C, H, W]."""
    return len({image.tobytes() for images in sets for image in images.numpy()})
