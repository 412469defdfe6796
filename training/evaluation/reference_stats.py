"""The real side of a comparison: all that scores need of the real images, judged once for any number of generators."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganctl.training.data.base import shuffled
from ganctl.training.evaluation.classifier import Judged
from ganctl.training.evaluation.metrics import (
    Gaussian,
    Neighbourhoods,
    class_balance,
    frechet_distance,
    inception_score,
)


@dataclass(frozen=True)
class ReferenceStats:
    """Statistics of N real images, and the scores that real images themselves get."""

    features: Tensor  # float32 [N, F]
    gaussian: Gaussian
    balls: Neighbourhoods
    floor: float  # the Fréchet distance of as many other real images: what a perfect generator would get
    class_balance: float
    inception_score: float

    @staticmethod
    def of(judged: Judged, others: Judged) -> "ReferenceStats":
        """Of real images, and as many others for the floor."""
        gaussian = Gaussian.fit(judged.features)
        return ReferenceStats(
            judged.features,
            gaussian,
            Neighbourhoods.of(judged.features),
            frechet_distance(Gaussian.fit(others.features), gaussian),
            class_balance(judged.predictions, judged.logits.shape[1]),
            inception_score(judged.logits),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything, bit for bit, to be kept in a file."""
        scores = (self.floor, self.class_balance, self.inception_score)
        return {
            "features": self.features,
            "mean": self.gaussian.mean,
            "covariance": self.gaussian.covariance.contiguous(),
            "precision_recall": self.balls.precision_recall.contiguous(),
            "density_coverage": self.balls.density_coverage.contiguous(),
            "scores": torch.tensor(scores, dtype=torch.float64),
        }

    @staticmethod
    def from_tensors(kept: dict[str, Tensor]) -> "ReferenceStats":
        """What `tensors` gave."""
        return ReferenceStats(
            kept["features"],
            Gaussian(kept["mean"], kept["covariance"]),
            Neighbourhoods(kept["precision_recall"], kept["density_coverage"]),
            *kept["scores"].tolist(),
        )


def some(images: Tensor, n: int) -> Tensor:
    """n images (or the labels of just these) from all over a set: MNIST's files are sorted by groups of writers, and
    repeat themselves with a period, so that neither their first images nor every k-th one are a sample of all."""
    return images if n >= len(images) else images[shuffled(len(images))[:n]]


def different(*sets: Tensor) -> int:
    """The number of different images in sets of uint8 images [N, C, H, W]."""
    return len({image.tobytes() for images in sets for image in images.numpy()})
