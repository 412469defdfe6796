"""Loads the scoring classifier, which provides the features and the label predictions.

The weights for MNIST are part of the package (`classifier.safetensors`, made by `train_classifier.py`). For another
data set the network is trained once on its training split and cached.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError

from ganctl.training.config.cache_dir import cache_path, read_cached, write_cached
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import data_digest, load_split
from ganctl.training.errors import DataError
from ganctl.training.evaluation.network import DIGEST_KEY, MNIST_CLASSIFIER, Classifier
from ganctl.training.pretrained.weights import read_tensors


def load_classifier(data: DataSettings, announce: Callable[[str], None] = lambda text: None) -> Classifier:
    """Loads the classifier of a data set, in evaluation mode on the CPU.

    Args:
        data: the data set. For a data set other than MNIST the first call trains the classifier, which takes minutes.
            With a single class it keeps its fresh weights: the loss is zero from the start.
        announce: receives progress messages.

    Raises:
        DataError: the weights are damaged, or the training data are absent.
    """
    if data.source == "mnist":
        return read_classifier(MNIST_CLASSIFIER)
    from ganctl.training.evaluation.train_classifier import accuracy_metadata, serialize_classifier, train_and_test

    path = cache_path("classifiers", f"{data_digest(data)}.safetensors")
    if (cached := read_cached(path, read_classifier, announce)) is not None:
        if "test_majority" not in cached.metadata:  # written by an earlier version
            cached.metadata |= accuracy_metadata(cached, load_split(data, "test"))
        return cached
    if load_split(data, "train").num_classes == 1:
        return train_and_test(data, announce)
    destination = f", once; it is cached in {path}" if path else ""
    announce(f"training the classifier that scores {data.name}{destination}")
    classifier = train_and_test(data, announce)
    accuracy = float(classifier.metadata["test_accuracy"])
    announce(f"the test accuracy of the classifier is {accuracy:.1%}; it limits the accuracy of the scores")
    if (reason := write_cached(path, serialize_classifier(classifier))) is not None:
        announce(f"{reason}; the classifier is not cached: the next run trains it again")
    return classifier


def read_classifier(path: Path) -> Classifier:
    """Reads a classifier that `train_classifier.serialize_classifier` made, in evaluation mode on the CPU.

    Raises:
        DataError: the file is damaged, or holds other weights.
    """
    try:
        weights, metadata = read_tensors(path, DIGEST_KEY)
        classes, inputs = weights["head.weight"].shape[0], weights["body.13.weight"].shape[1]
        with torch.random.fork_rng(devices=[]):  # keeps the random state of a surrounding training run
            classifier = Classifier(weights["body.0.weight"].shape[1], classes, inputs // 64)
        classifier.load_state_dict(weights)
    except (SafetensorError, RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected the weights of the scoring classifier ({error}). Delete the file, or reinstall ganctl"
        ) from error
    classifier.metadata = metadata
    return classifier.eval().to(memory_format=torch.channels_last)
