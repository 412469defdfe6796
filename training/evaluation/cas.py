"""What generated images are good for: how well a classifier that has seen nothing else reads real ones.

The classification accuracy score of Ravuri and Vinyals 2019 (arXiv:1905.10887): train a classifier on labelled images
of the generator alone, test it on real test images, and compare with the same training on real images. A generator that
lacks kinds of images, or mixes classes up, loses here what the Fréchet distance may not show.

The network is that of the scoring classifier, from fresh weights. It is trained for less time and without augmentation,
which would make up for variety that the generator lacks.
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
from ganctl.training.evaluation.classifier import judge
from ganctl.training.evaluation.train_classifier import train_classifier

IMAGES = 60_000
EPOCHS = 2
LATENTS_SEED = 1905  # of the images to learn from: others than those that are scored
_SEED = 0
RECIPE = f"train_classifier, {EPOCHS} epochs, no augmentation, seed {_SEED}"


def classification_accuracy(
    fakes: ImageSet, data: DataSettings, *, store: TensorCache, announce: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Trains on generated images, and on the real training images where `store` does not know the outcome yet.

    Args:
        fakes: generated images with the labels that were asked for.
        data: whose training images are the comparison, and whose test images are the test.
        store: keeps the real side's accuracy.
        announce: told what takes long.

    Returns:
        cas and cas_real (shares of the test images read right), cas_gap (how much less cas is), cas_n and cas_n_real
        (images that each learnt from).

    Raises:
        DataError: a class has no image among the fakes.
    """
    absent = [name for i, name in enumerate(fakes.class_names) if not (fakes.labels == i).any()]
    if absent:
        raise DataError(f"--cas: no images of the classes {', '.join(absent)}; expected some of each, to learn from")
    test = load_split(data, "test")
    announce(f"training a classifier on {len(fakes):,} generated images")
    score = learnt(fakes, test, announce)
    train = load_split(data, "train")

    def compute() -> dict[str, Tensor]:
        announce(f"training it on {len(train):,} real images, once for this data set")
        return {"accuracy": torch.tensor(learnt(train, test, announce), dtype=torch.float64)}

    facts = {"what": "classification accuracy", "recipe": RECIPE}
    for split, real in (("train", train), ("test", test)):
        facts |= {f"{split} images": images_digest(real.images), f"{split} labels": images_digest(real.labels)}
    real_score = float(store.get_or_compute(facts, compute)["accuracy"])
    return {
        "cas": score,
        "cas_real": real_score,
        "cas_gap": real_score - score,
        "cas_n": len(fakes),
        "cas_n_real": len(train),
    }


def learnt(images: ImageSet, test: ImageSet, announce: Callable[[str], None]) -> float:
    """The share of `test` that a fresh classifier reads right after training on `images` alone."""
    with torch.random.fork_rng():
        classifier = train_classifier(images, epochs=EPOCHS, seed=_SEED, augment=False, announce=announce)
    return (judge(classifier, test.images).predictions == test.labels).float().mean().item()
