"""The bench of the scores: its degradations, the directions that it expects, and its verdict on a series."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ganctl.benchmarks.measure.__main__ import is_monotonic
from ganctl.benchmarks.measure.degradations import Family, degradations
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, premultiply
from ganctl.training.data.datasets import load_split
from tests.any_images import COLORS, disks

N = 100
WORSE_IMAGES = ("blur, σ in pixels of 32", "noise, σ of 255", "JPEG, quality")
OF_CLASSES = {"missing classes", "wrong labels"}


def digits(split: str) -> ImageSet:
    data = load_split(DataSettings(), "train" if split == "train" else "val")
    return ImageSet(data.images[:N], data.labels[:N], data.class_names)


def transparent(seed: int) -> ImageSet:
    images = premultiply(torch.from_numpy(disks(N, 24, seed=seed)).permute(0, 3, 1, 2))
    return ImageSet(images, torch.arange(N) % len(COLORS), tuple(map(str, COLORS)))


def families(name: str) -> dict[str, Family]:
    """The families of digits, or of transparent disks of three colors."""
    real, train = (digits("val"), digits("train")) if name == "digits" else (transparent(1), transparent(2))
    return {family.name: family for family in degradations(real, train)}


def differences(family: Family) -> list[float]:
    """Mean squared difference of each level from the first."""
    original: Tensor = family.sets[0].images.float()
    return [(each.images.float() - original).square().mean().item() for each in family.sets]


@pytest.mark.parametrize("name", ["digits", "transparent"])
def test_each_level_of_blur_noise_and_compression_differs_more_from_the_images_than_the_one_before(name: str) -> None:
    found = families(name)
    for degradation in WORSE_IMAGES:
        values = differences(found[degradation])
        assert values[0] == 0, degradation
        assert all(a < b for a, b in pairwise(values)), (degradation, values)


@pytest.mark.parametrize("name", ["digits", "transparent"])
def test_each_level_has_a_name_as_many_images_and_labels_as_the_first(name: str) -> None:
    for family in families(name).values():
        assert len(family.levels) == len(family.sets) == len(set(family.levels)) > 2
        for each in family.sets:
            assert each.images.shape == family.sets[0].images.shape
            assert len(each.labels) == len(each.images)
            assert each.images.dtype == torch.uint8
            assert each.class_names == family.sets[0].class_names


def test_degraded_colors_are_at_most_alpha_with_which_they_are_multiplied() -> None:
    found = families("transparent")
    for degradation in WORSE_IMAGES:
        for each in found[degradation].sets:
            assert (each.images[:, :3] <= each.images[:, 3:]).all(), degradation


def test_of_two_classes_one_can_be_missing() -> None:
    data = ImageSet(digits("val").images, torch.arange(N) % 2, ("a", "b"))
    (family,) = (each for each in degradations(data, digits("train")) if each.name == "missing classes")
    assert [len(each.labels.unique()) for each in family.sets] == [2, 1]


def test_worse_images_less_variety_wrong_labels_and_copies_change_the_scores_that_tell_them() -> None:
    found = families("digits")
    for name in WORSE_IMAGES:
        assert set(found[name].rising) == {"fd", "kid"}
        assert set(found[name].falling) == {"precision", "recall", "density", "coverage"}
    for name in ("missing classes", "different images"):
        assert set(found[name].rising) == {"fd", "kid"}
        assert set(found[name].falling) == {"recall", "coverage"}, "images of one class may be good ones"
    assert (found["wrong labels"].rising, found["wrong labels"].falling) == ((), ("label_accuracy",))
    assert found["copies of training images"].rising == ("share_closer",)


def test_levels_are_what_their_names_say() -> None:
    found = families("digits")
    classes = [len(each.labels.unique()) for each in found["missing classes"].sets]
    assert classes == [10, 9, 7, 5, 2]
    distinct = [len({image.numpy().tobytes() for image in each.images}) for each in found["different images"].sets]
    assert distinct == [100, 50, 20, 5, 2], "at least two"
    original = found["wrong labels"].sets[0].labels
    assert [int((each.labels != original).sum()) for each in found["wrong labels"].sets] == [0, 10, 30, 50, 80]
    copies = {image.numpy().tobytes() for image in digits("train").images}
    copied = [
        sum(image.numpy().tobytes() in copies for image in each.images)
        for each in found["copies of training images"].sets
    ]
    assert copied == [0, 10, 30, 50, 80]


def test_the_labels_stay_those_of_their_images() -> None:
    found = families("digits")
    real, train = digits("val"), digits("train")
    known = {
        image.numpy().tobytes(): int(label)
        for data in (real, train)
        for image, label in zip(data.images, data.labels, strict=True)
    }
    for name in ("missing classes", "different images", "copies of training images"):
        for each in found[name].sets:
            assert each.labels.tolist() == [known[image.numpy().tobytes()] for image in each.images], name


def test_unlabeled_images_have_no_families_of_classes() -> None:
    def unlabeled(seed: int) -> ImageSet:
        return ImageSet(transparent(seed).images, torch.zeros(N, dtype=torch.int64), ())

    names = {family.name for family in degradations(unlabeled(1), unlabeled(2))}
    assert names == families("transparent").keys() - OF_CLASSES


def test_the_same_images_are_degraded_in_the_same_way() -> None:
    first, second = families("digits"), families("digits")
    for name, family in first.items():
        for a, b in zip(family.sets, second[name].sets, strict=True):
            assert torch.equal(a.images, b.images), name
            assert torch.equal(a.labels, b.labels), name


@pytest.mark.parametrize(
    ("values", "rising", "expected"),
    [
        ([1.0, 2.0, 3.0], True, True),
        ([1.0, 2.0, 3.0], False, False),
        ([3.0, 2.0, 1.0], False, True),
        ([1.0, 2.0, 1.95, 3.0], True, True),  # a step the wrong way within the tolerance
        ([1.0, 2.0, 1.8, 3.0], True, False),
        ([3.0, 1.0, 1.2], False, False),
        ([1.0, 1.02, 1.05], True, False),  # no change beyond the tolerance
    ],
)
def test_a_series_is_monotonic_if_it_changes_and_no_step_is_wrong_by_more_than_the_tolerance(
    values: list[float], rising: bool, expected: bool
) -> None:
    assert is_monotonic(values, rising=rising, tolerance=0.1) is expected
