"""Classification accuracy score: the test accuracy of a classifier that is trained on generated images alone.

Ravuri and Vinyals 2019 (arXiv:1905.10887): train a classifier on labeled generated images, test it on real test images,
and compare with the same training on real images. The score drops if a generator misses kinds of images or mixes up
classes, which the Fréchet distance may not show.

The network is that of the scoring classifier, from fresh weights. It is trained for fewer epochs and without
augmentation, which would compensate for missing variety of the generator.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.evaluation.cache import TensorCache, images_digest
from ganctl.training.evaluation.train_classifier import SEED, accuracy, train_classifier

LATENTS_SEED = 1905  # of the training images, which must differ from the scored images
_EPOCHS = 2
_RECIPE = f"train_classifier, {_EPOCHS} epochs, no augmentation, seed {SEED}"


def classification_accuracy(
    fakes: ImageSet, data: DataSettings, *, cache: TensorCache, announce: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Trains one classifier on generated images and, unless its result is cached, one on the real training images.

    Args:
        fakes: generated images with the labels that they were conditioned on.
        data: the data set of the real training images and of the test images.
        cache: stores the accuracy of the classifier trained on real images.
        announce: receives progress messages.

    Returns:
        cas and cas_real (test accuracy, 0 to 1, after training on generated and on real images), cas_gap (cas_real −
        cas), cas_n and cas_n_real (numbers of training images).

    Raises:
        DataError: a class has no image among the fakes.
    """
    absent = [name for i, name in enumerate(fakes.class_names) if not (fakes.labels == i).any()]
    if absent:
        raise DataError(f"--cas: found no images of the classes {', '.join(absent)}, expected images of each class")
    test = load_split(data, "test")
    announce(f"training a classifier on {len(fakes):,} generated images")
    score = _train_and_score(fakes, test, announce)
    train = load_split(data, "train")

    def compute() -> dict[str, Tensor]:
        announce(f"training the classifier on {len(train):,} real images, once for this data set")
        return {"accuracy": torch.tensor(_train_and_score(train, test, announce), dtype=torch.float64)}

    inputs = {"what": "classification accuracy", "recipe": _RECIPE}
    for split, real in (("train", train), ("test", test)):
        inputs |= {f"{split} images": images_digest(real.images), f"{split} labels": images_digest(real.labels)}
    real_score = float(cache.get_or_compute(inputs, compute)["accuracy"])
    return {
        "cas": score,
        "cas_real": real_score,
        "cas_gap": real_score - score,
        "cas_n": len(fakes),
        "cas_n_real": len(train),
    }


def _train_and_score(train: ImageSet, test: ImageSet, announce: Callable[[str], None]) -> float:
    """Accuracy on `test`, 0 to 1, of a fresh classifier trained on `train`."""
    return accuracy(train_classifier(train, announce, epochs=_EPOCHS, augment=False), test)
