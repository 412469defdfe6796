"""The memorization check flags copies of training images, and does not flag held-out images."""

import pytest
import torch
from torch import Tensor

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import Split, fixed_permutation
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.neighbors import SAMPLE, MemorizationDetector, find_nearest

MNIST = DataSettings()


@pytest.fixture(scope="module")
def detector() -> MemorizationDetector:
    return MemorizationDetector(load_split(MNIST, "train"), load_split(MNIST, "test"))


def test_nearest_distances_equal_the_minimum_over_single_comparisons() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 2, 3, 3), generator=rng, dtype=torch.uint8)
    references = torch.randint(256, (11_000, 2, 3, 3), generator=rng, dtype=torch.uint8)  # more than two blocks
    references[10_500] = images[3]
    expected = torch.stack([(image.double() - references.double()).flatten(1).norm(dim=1).min() for image in images])
    distances, indices = find_nearest(images, references)
    assert distances.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert (float(distances[3]), int(indices[3])) == (0.0, 10_500)


def copies() -> Tensor:
    return load_split(MNIST, "train").images[fixed_permutation(55_000)[-SAMPLE:]]


def test_copies_are_flagged_also_with_noise_and_among_new_images(detector: MemorizationDetector) -> None:
    exact = detector.check(copies())
    assert exact == {"ratio": 0, "share_closer": 1, "flagged": True, "num_images": SAMPLE}
    noise = torch.randint(-16, 17, copies().shape, generator=torch.Generator().manual_seed(0))
    noisy = detector.check((copies() + noise).clamp(0, 255).to(torch.uint8))
    assert noisy["flagged"]
    assert noisy["ratio"] < 0.3
    test = load_split(MNIST, "test").images[fixed_permutation(10_000)[SAMPLE:]]
    mixed = detector.check(torch.cat([copies()[:100], test[: SAMPLE - 100]]))  # a tenth are copies
    assert mixed["flagged"]
    assert mixed["ratio"] > 0.9  # the median ratio does not show them


@pytest.mark.parametrize("split", ["test", "val"])
def test_held_out_images_are_not_flagged(detector: MemorizationDetector, split: Split) -> None:
    held_out = load_split(MNIST, split).images
    result = detector.check(held_out[fixed_permutation(len(held_out))[-SAMPLE:]])
    assert result["ratio"] == pytest.approx(1, abs=0.1)
    assert result["share_closer"] < 0.03
    assert not result["flagged"]
