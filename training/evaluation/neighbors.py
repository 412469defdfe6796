"""Whether a generator repeats its training images: how near its images are to them, against how near images are that
have never been trained on.

The distance is the Euclidean one of pixels, to the nearest of all training images. Test images set the measure: a
generator that has learnt the distribution is about as far away as they are, one that copies is far nearer. Nearest
training neighbours as such a test: Meehan, Chaudhuri and Dasgupta 2020 (arXiv:2004.05675), who compare the ranks of the
same two sets of distances.
"""

from typing import Any

import torch
from torch import Tensor

from ganctl.training.data.base import ImageSet
from ganctl.training.evaluation.cache import TensorCache, images_digest
from ganctl.training.evaluation.reference_stats import different, some
from ganctl.training.evaluation.validity import few_images

SAMPLE = 1000  # images of each side: 1,000 × 55,000 distances are a second's work
QUANTILE = 0.01
SUSPECT = 0.05  # of images nearer than that quantile: five times as many as of test images
_ROWS = 5000  # training images at a time


class Memorisation:
    """Compares fakes with the training images; see `check`."""

    def __init__(self, train: ImageSet, held_out: ImageSet, store: TensorCache | None = None) -> None:
        """`train` is what generators learnt from, `held_out` what they have not seen; `store` keeps its distances."""
        self._train = train.images
        reference = some(held_out.images, SAMPLE)
        self._variety = different(reference)

        def compute() -> dict[str, Tensor]:
            return {"distances": nearest(reference, self._train)}

        if store is None:
            self._expected = compute()["distances"]
        else:
            facts = {"what": "memorisation", "train": images_digest(self._train), "held_out": images_digest(reference)}
            self._expected = store.get_or_compute(facts, compute)["distances"]

    def check(self, fakes: Tensor) -> dict[str, Any]:
        """Compares generated images, uint8 [N, C, H, W], of which a sample is taken.

        Returns:
            Of fewer than 200 fakes or different held-out images all but n is None: one near image would decide.
            ratio: median distance of the fakes over that of test images; 0 for copies, about 1 for new images.
            share_closer: how many of the fakes are nearer than 99 % of the test images are.
            flagged: whether that share is 5 % or more.
            n: how many fakes were looked at.
        """
        fakes = some(fakes, SAMPLE)
        if few_images(len(fakes), self._variety):
            return {"ratio": None, "share_closer": None, "flagged": None, "num_images": len(fakes)}
        distances = nearest(fakes, self._train)
        limit = self._expected.quantile(QUANTILE)
        share = (distances <= limit).float().mean().item()
        # repeated images in the data may leave nothing to divide by
        ratio = (distances.median() / self._expected.median().clamp(min=1e-6)).item()
        return {"ratio": ratio, "share_closer": share, "flagged": share >= SUSPECT, "num_images": len(distances)}


def nearest(images: Tensor, among: Tensor) -> Tensor:
    """The distance of each of the uint8 images [N, C, H, W] to the nearest of `among` [M, C, H, W]; float32 [N].

    The nearest is found with ‖a‖² + ‖b‖² − 2 a·b, whose rounding is harmless for the search; its distance is then
    computed from the differences, so that a copy is at 0.
    """
    wanted = images.flatten(1).float()
    least = torch.full((len(wanted),), torch.inf)
    where = torch.zeros(len(wanted), dtype=torch.int64)
    for start in range(0, len(among), _ROWS):
        rows = among[start : start + _ROWS].flatten(1).float()
        values, places = torch.addmm(rows.square().sum(dim=1)[None], wanted, rows.T, alpha=-2).min(dim=1)
        where = torch.where(values < least, places + start, where)
        least = torch.minimum(values, least)
    return (wanted - among[where].flatten(1).float()).square().sum(dim=1).sqrt()
