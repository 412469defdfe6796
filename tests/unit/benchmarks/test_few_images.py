"""The comparison of trainings on few images with and without augmentation: its subsets, and its table."""

from collections.abc import Mapping

import pytest
import torch

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.few_images import few, of_class, table
from ganctl.training.data.base import ImageSet
from ganctl.training.readers.tree import Split


def image_sets() -> dict[Split, ImageSet]:
    """Images whose pixels are all equal to their label, in three classes."""

    def make(n: int) -> ImageSet:
        labels = torch.arange(n) % 3
        return ImageSet(labels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).byte(), labels, ("c", "a", "b"))

    return {"train": make(900), "val": make(300), "test": make(150)}


@pytest.mark.parametrize(("count", "lengths"), [(30, (30, 20, 150)), (600, (600, 60, 150)), (None, (900, 300, 150))])
def test_few_images_keep_all_test_images_and_a_tenth_as_many_for_validation(
    count: int | None, lengths: tuple[int, int, int]
) -> None:
    chosen: Mapping[Split, ImageSet] = few(image_sets(), count)
    assert tuple(len(chosen[split]) for split in ("train", "val", "test")) == lengths
    assert chosen["train"].labels.bincount().unique().numel() == 1, "equally many of each class"


def test_one_class_has_its_images_alone_and_no_labels() -> None:
    chosen = of_class(image_sets()["train"], "a")
    assert (len(chosen), chosen.class_names) == (300, ())
    assert chosen.images.unique().tolist() == [1]


def test_an_unknown_class_and_too_many_images_are_errors_that_say_what_there_is() -> None:
    with pytest.raises(BenchError, match=r"--class: found d, expected one of c, a, b"):
        of_class(image_sets()["train"], "d")
    with pytest.raises(BenchError, match=r"--images: found 1000 of 900 training images"):
        few(image_sets(), 1000)


def test_the_table_has_the_share_of_near_copies_or_a_dash_where_it_has_no_meaning() -> None:
    scores = {"kid": 1.5, "kid_se": 0.1, "fd": 20.0, "fd_ratio": 10.0, "recall": 0.5}
    records = [
        {"train_images": 100, "augmentation": name, "images": 5000, "scores": scores, "copies": copies}
        for name, copies in (
            ("none", {"share_closer": 0.25, "flagged": True}),
            ("adaptive", {"share_closer": None, "flagged": None}),
        )
    ]
    assert table(records)[2:] == [
        "| 100 | none | 5,000 | 1.500 ± 0.100 | 20.00 | 10.0 | 0.500 | 25.0% | yes |",
        "| 100 | adaptive | 5,000 | 1.500 ± 0.100 | 20.00 | 10.0 | 0.500 | – | – |",
    ]


def test_the_table_has_dashes_for_scores_that_need_more_images() -> None:
    scores = {"kid": None, "kid_se": None, "fd": 20.0, "fd_ratio": None, "recall": None}
    copies = {"share_closer": None, "flagged": None}
    record = {"train_images": 50, "augmentation": "none", "images": 5000, "scores": scores, "copies": copies}
    assert table([record])[2:] == ["| 50 | none | 5,000 | – | 20.00 | – | – | – | – |"]
