"""Trains the classifier that scores generators, and measures its test accuracy.

    python -m ganctl.training.evaluation.train_classifier [--out FILE]

made the packaged `classifier.safetensors`. The classifier is trained on the 55,000 training images only: its features
depend neither on the validation images, which select checkpoints, nor on the test images, which give the scores.
"""

import math
from collections.abc import Callable
from pathlib import Path

import click
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from ganctl import __version__
from ganctl.files import write_file
from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.data.datasets import load_split
from ganctl.training.device.turns import in_turns
from ganctl.training.evaluation.network import DIGEST_KEY, MNIST_CLASSIFIER, Classifier, classify, spatial_positions
from ganctl.training.models.base import to_float

SEED = 0  # of the weights, the order of the images and the augmentation
_EPOCHS = 8
_BATCH = 128
_MIN_BATCH, MIN_STEPS = 32, 400  # for small data sets, whose epochs are short
_PEAK_RATE = 3e-3
MAX_EMA_DECAY = 0.998  # largest decay; it is lower in short trainings, so that the average leaves out the first steps


@torch.random.fork_rng()  # keeps the random state of a surrounding training run
def train_classifier(
    data: ImageSet, announce: Callable[[str], None], *, epochs: int, augment: bool = True
) -> Classifier:
    """Trains a classifier from fresh weights, and returns the EMA of the weights in evaluation mode.

    With a single class the loss is always zero: the fresh weights are returned.

    Args:
        data: training images.
        announce: receives at most eight progress messages.
        epochs: passes over the images; raised for small data sets, which need a minimum number of steps.
        augment: whether to shift, rotate, shear and scale the images at random.
    """
    torch.manual_seed(SEED)
    channels, height, width = data.shape
    classifier = Classifier(channels, data.num_classes, spatial_positions(height, width))
    classifier.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    if data.num_classes == 1:
        return classifier.eval()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=_PEAK_RATE, weight_decay=1e-2, fused=True)
    batch = min(_BATCH, max(_MIN_BATCH, len(data) // 16), len(data))
    steps = len(data) // batch
    epochs = max(epochs, -(-MIN_STEPS // steps))
    done, total = 0, epochs * steps
    decay = min(MAX_EMA_DECAY, 1 - 5 / total)
    average = torch.optim.swa_utils.AveragedModel(
        classifier, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    for _ in range(epochs):
        for indices in in_turns(torch.randperm(len(data))[: steps * batch].split(batch)):
            progress = done / total
            optimizer.param_groups[0]["lr"] = _PEAK_RATE * min(progress * 10, 0.5 * (1 + math.cos(math.pi * progress)))
            images = to_float(data.images[indices])
            images = (_augment(images) if augment else images).contiguous(memory_format=torch.channels_last)
            _, logits = classifier(images)
            optimizer.zero_grad()
            cross_entropy(logits, data.labels[indices]).backward()
            optimizer.step()
            average.update_parameters(classifier)
            done += 1
            if done * 8 // total > (done - 1) * 8 // total:
                announce(f"classifier: {done} of {total} steps")
    trained = average.module
    assert isinstance(trained, Classifier)
    return trained.eval()


def _augment(images: Tensor) -> Tensor:
    """Applies random affine maps: rotation ±12°, scale 0.9 … 1.1, shear ±0.15, shift ±2 pixels of 28."""
    n = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n) * 2 - 1) * limit

    angle, scale, shear = uniform(math.radians(12)), 1 + uniform(0.1), uniform(0.15)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos, shear - sin, uniform(1 / 7)], 1), torch.stack([sin, cos, uniform(1 / 7)], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return grid_sample(images + 1, grid, align_corners=False) - 1  # +1: the padding value 0 becomes the background −1


def train_and_test(data: DataSettings, announce: Callable[[str], None]) -> Classifier:
    """Trains the classifier of a data set; its `metadata` are the recipe and the accuracy."""
    classifier = train_classifier(load_split(data, "train"), announce, epochs=_EPOCHS)
    classifier.metadata = {"data": data.name, "epochs": str(_EPOCHS), "torch": torch.__version__}
    classifier.metadata |= accuracy_metadata(classifier, load_split(data, "test"))
    return classifier


def serialize_classifier(classifier: Classifier) -> bytes:
    """The safetensors bytes of the weights, the metadata and a digest; `read_classifier` reads them."""
    weights = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    added = {"ganctl_version": __version__, DIGEST_KEY: weights_digest(weights)}
    return safetensors.torch.save(weights, metadata=classifier.metadata | added)


def accuracy(classifier: Classifier, test: ImageSet) -> float:
    """The share of images, 0 to 1, whose class the classifier predicts."""
    return (classify(classifier, test.images).predictions == test.labels).float().mean().item()


def accuracy_metadata(classifier: Classifier, test: ImageSet) -> dict[str, str]:
    """The test accuracy, the number of test images and the share of their largest class."""
    accurate, majority = accuracy(classifier, test), int(test.labels.bincount().max()) / len(test)
    return {"test_accuracy": f"{accurate:.4f}", "test_images": str(len(test)), "test_majority": f"{majority:.4f}"}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=MNIST_CLASSIFIER)
def main(out: Path) -> None:
    """Train the scoring classifier of MNIST and print its test accuracy."""
    classifier = train_and_test(DataSettings(), lambda text: click.echo(text, err=True))
    write_file(out, serialize_classifier(classifier))
    click.echo(f"{out}: test accuracy {classifier.metadata['test_accuracy']}")


if __name__ == "__main__":
    main()
