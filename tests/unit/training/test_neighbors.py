"""A generator that copies its training images is found out; one that draws as new images as the test set's is not."""

import pytest
import torch
from torch import Tensor

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import Split, fixed_permutation
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.neighbors import SAMPLE, MemorizationDetector, nearest_distances

MNIST = DataSettings()


@pytest.fixture(scope="module")
def memorisation() -> MemorizationDetector:
    return MemorizationDetector(load_split(MNIST, "train"), load_split(MNIST, "test"))


def test_the_nearest_is_that_of_every_single_comparison() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 2, 3, 3), generator=rng, dtype=torch.uint8)
    among = torch.randint(256, (11_000, 2, 3, 3), generator=rng, dtype=torch.uint8)  # more than two blocks
    among[10_500] = images[3]
    expected = torch.stack([(image.double() - among.double()).flatten(1).norm(dim=1).min() for image in images])
    assert nearest_distances(images, among).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert nearest_distances(images, among)[3] == 0


def copies() -> Tensor:
    return load_split(MNIST, "train").images[fixed_permutation(55_000)[-SAMPLE:]]


def test_copies_are_flagged_also_with_noise_and_among_new_images(memorisation: MemorizationDetector) -> None:
    found = memorisation.check(copies())
    assert found == {"ratio": 0, "share_closer": 1, "flagged": True, "num_images": SAMPLE}
    noise = torch.randint(-16, 17, copies().shape, generator=torch.Generator().manual_seed(0))
    noisy = memorisation.check((copies() + noise).clamp(0, 255).to(torch.uint8))
    assert noisy["flagged"]
    assert noisy["ratio"] < 0.3
    test = load_split(MNIST, "test").images[fixed_permutation(10_000)[SAMPLE:]]
    some = memorisation.check(torch.cat([copies()[:100], test[: SAMPLE - 100]]))  # every tenth is a copy
    assert some["flagged"]
    assert some["ratio"] > 0.9  # which the median does not show


@pytest.mark.parametrize("split", ["test", "val"])
def test_images_that_were_held_out_are_not_flagged(memorisation: MemorizationDetector, split: Split) -> None:
    held_out = load_split(MNIST, split).images
    found = memorisation.check(held_out[fixed_permutation(len(held_out))[-SAMPLE:]])
    assert found["ratio"] == pytest.approx(1, abs=0.1)
    assert found["share_closer"] < 0.03
    assert not found["flagged"]
