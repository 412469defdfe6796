"""Memorization check: are generated images nearer to the training images than held-out images are?

The distance is Euclidean, in pixels. A generator that has learned the distribution is about as far from its training
images as test images are; one that copies them is much closer. Meehan, Chaudhuri and Dasgupta 2020 (arXiv:2004.05675)
test the same two sets of distances by their ranks.
"""

from typing import Any

import torch
from torch import Tensor

from ganctl.training.data.base import ImageSet
from ganctl.training.device.turns import in_turns
from ganctl.training.evaluation.cache import TensorCache, images_digest
from ganctl.training.evaluation.reference_stats import count_distinct, subsample
from ganctl.training.evaluation.validity import too_few_images

SAMPLE = 1000  # images of each set: 1,000 × 55,000 distances take about a second
QUANTILE = 0.01
SUSPECT = 0.05  # share of generated images closer than that quantile: five times the share of test images
_ROWS = 5000  # training images per block


class MemorizationDetector:
    """Compares generated images with the training images; see `check`."""

    def __init__(self, train: ImageSet, held_out: ImageSet, cache: TensorCache | None = None) -> None:
        """`held_out` images are the reference for images not trained on; `cache` stores their distances.

        Attribute `held_out_distances`: of up to SAMPLE of them to the nearest training image, float32 [N].
        """
        self._train = train.images
        reference = subsample(held_out.images, SAMPLE)
        self._distinct_images = count_distinct(reference)

        def compute() -> dict[str, Tensor]:
            return {"distances": find_nearest(reference, self._train)[0]}

        inputs = {"what": "memorisation", "train": images_digest(self._train), "held_out": images_digest(reference)}
        self.held_out_distances = (cache.get_or_compute(inputs, compute) if cache else compute())["distances"]

    def check(self, fakes: Tensor) -> dict[str, Any]:
        """Compares up to SAMPLE of the generated images, uint8 [N, C, H, W], with the training images.

        Returns:
            ratio: median distance of the generated images over that of the test images; 0 for copies, about 1 for new
                images.
            share_closer: share of generated images that are closer than 99 % of the test images.
            flagged: True if share_closer is 5 % or more.
            num_images: number of compared images.

            With fewer than 100 generated or distinct held-out images a single close image would decide: all values
            but num_images are then None.
        """
        return self.judge(find_nearest(subsample(fakes, SAMPLE), self._train)[0])

    def judge(self, distances: Tensor) -> dict[str, Any]:
        """Returns the result of `check` for the distances of generated images to their nearest training image, [N]."""
        if too_few_images(len(distances), self._distinct_images):
            return {"ratio": None, "share_closer": None, "flagged": None, "num_images": len(distances)}
        limit = self.held_out_distances.quantile(QUANTILE)
        share = (distances <= limit).float().mean().item()
        # the median is 0 if most held-out images are also training images
        ratio = (distances.median() / self.held_out_distances.median().clamp(min=1e-6)).item()
        return {"ratio": ratio, "share_closer": share, "flagged": share >= SUSPECT, "num_images": len(distances)}


def find_nearest(images: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the nearest of `candidates`, uint8 [M, C, H, W], for each of `images`, uint8 [N, C, H, W].

    Returns:
        The Euclidean distances, float32 [N].
        The indices of the candidates, int64 [N].

    The search uses ‖a‖² + ‖b‖² − 2 a·b, whose rounding does not matter there. The distance to the image found is
    computed from the differences, so that a copy has a distance of exactly 0.
    """
    queries = images.flatten(1).float()
    smallest = torch.full((len(queries),), torch.inf)
    nearest = torch.zeros(len(queries), dtype=torch.int64)
    for start in in_turns(range(0, len(candidates), _ROWS)):
        rows = candidates[start : start + _ROWS].flatten(1).float()
        values, indices = torch.addmm(rows.square().sum(dim=1)[None], queries, rows.T, alpha=-2).min(dim=1)
        nearest = torch.where(values < smallest, indices + start, nearest)
        smallest = torch.minimum(values, smallest)
    return (queries - candidates[nearest].flatten(1).float()).square().sum(dim=1).sqrt(), nearest
