"""A few digits of MNIST as a data set, and its scorer: the label classifier is fitted in about a second."""

from functools import cache

import torch

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.label_classifier import LabelClassifier, fit
from ganctl.training.evaluation.scorer import FeatureScorer

CPU = torch.device("cpu")
SIZES: dict[Split, int] = {"train": 600, "val": 300, "test": 200}


def load_digits(settings: DataSettings, split: Split) -> ImageSet:
    """The first images of a split of MNIST."""
    whole, n = load_split(DataSettings(), split), SIZES[split]
    return ImageSet(whole.images[:n], whole.labels[:n], whole.class_names)


@cache
def digits_classifier() -> LabelClassifier:
    """A label classifier of few images: it reads more than nine of ten digits right."""
    return fit(load_digits(DataSettings(), "train"), load_digits(DataSettings(), "test"), CPU)


@cache
def digits_scorer() -> FeatureScorer:
    """The default scorer, with that classifier."""
    return FeatureScorer(digits_classifier(), CPU)
