"""Trains the classifier that scores generators, and says how accurate it is on the test set.

    python -m training.evaluation.train_classifier [--data mnist] [--out FILE] [--epochs 8]

made the committed `classifier.safetensors`. It learns from the 55,000 training images only, so neither the validation
images that choose checkpoints nor the test images that report scores have shaped the features.
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
from ganctl.training.evaluation.classifier import COMMITTED, DIGEST_NOTE, Classifier, judge, places_of
from ganctl.training.models.base import to_float

_BATCH = 128
_LEAST_BATCH, _LEAST_STEPS = 32, 400  # for small sets, whose epochs are short
_PEAK_RATE = 3e-3
_EMA = 0.998  # at most: the average must have forgotten the beginning when the training ends


def train_classifier(
    data: ImageSet,
    *,
    epochs: int,
    seed: int = 0,
    augment: bool = True,
    announce: Callable[[str], None] = lambda text: None,
) -> Classifier:
    """Trains from fresh weights; gives the average of the weights, in evaluation mode. With a single class, whose loss
    is always zero, the fresh weights are given.

    Args:
        data: all that it learns from.
        epochs: passes over the images (more for small sets, which would end after too few steps).
        seed: of the weights, the order and the augmentation.
        augment: whether the images are shifted, turned, sheared and scaled at random.
        announce: told of the progress, eight times at most.
    """
    torch.manual_seed(seed)
    channels, height, width = data.shape
    classifier = Classifier(channels, len(data.class_names), places_of(height, width))
    classifier.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    if len(data.class_names) == 1:
        return classifier.eval()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=_PEAK_RATE, weight_decay=1e-2, fused=True)
    batch = min(_BATCH, max(_LEAST_BATCH, len(data) // 16), len(data))
    steps = len(data) // batch
    epochs = max(epochs, -(-_LEAST_STEPS // steps))
    decay = min(_EMA, 1 - 5 / (epochs * steps))
    average = torch.optim.swa_utils.AveragedModel(
        classifier, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    for epoch in range(epochs):
        order = torch.randperm(len(data))
        for step in range(steps):
            behind = (epoch * steps + step) / (epochs * steps)
            optimizer.param_groups[0]["lr"] = _PEAK_RATE * min(behind * 10, 0.5 * (1 + math.cos(math.pi * behind)))
            chosen = order[step * batch : (step + 1) * batch]
            images = to_float(data.images[chosen])
            images = (_augment(images) if augment else images).contiguous(memory_format=torch.channels_last)
            _, logits = classifier(images)
            optimizer.zero_grad()
            cross_entropy(logits, data.labels[chosen]).backward()
            optimizer.step()
            average.update_parameters(classifier)
            done, total = epoch * steps + step + 1, epochs * steps
            if done * 8 // total > (done - 1) * 8 // total:
                announce(f"classifier: {done} of {total} steps")
    trained = average.module
    assert isinstance(trained, Classifier)
    return trained.eval()


def _augment(images: Tensor) -> Tensor:
    """Random affine maps: turns of ±12°, scale 0.9 … 1.1, shear ±0.15, shifts of ±2 pixels in 28."""
    n = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n) * 2 - 1) * limit

    angle, scale, shear = uniform(math.radians(12)), 1 + uniform(0.1), uniform(0.15)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos, shear - sin, uniform(1 / 7)], 1), torch.stack([sin, cos, uniform(1 / 7)], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return grid_sample(images + 1, grid, align_corners=False) - 1  # +1: what comes in from outside is background


def train_and_test(
    data: DataSettings, *, epochs: int = 8, announce: Callable[[str], None] = lambda text: None
) -> tuple[Classifier, dict[str, str]]:
    """Trains, and says in notes what came of it."""
    classifier = train_classifier(load_split(data, "train"), epochs=epochs, announce=announce)
    notes = {"data": data.name, "epochs": str(epochs), "torch": torch.__version__}
    notes |= measured(classifier, load_split(data, "test"))
    classifier.notes = notes
    return classifier, notes


def to_bytes(classifier: Classifier, notes: dict[str, str]) -> bytes:
    """The weights with the notes and a digest, as `read_classifier` reads them from a file."""
    weights = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    written = {"ganctl_version": __version__, DIGEST_NOTE: weights_digest(weights)}
    return safetensors.torch.save(weights, metadata=notes | written)


def measured(classifier: Classifier, test: ImageSet) -> dict[str, str]:
    """The classifier's accuracy on the test images, how many these are, and the share of their most frequent class."""
    accuracy = (judge(classifier, test.images).predictions == test.labels).float().mean().item()
    majority = int(test.labels.bincount().max()) / len(test)
    return {"test_accuracy": f"{accuracy:.4f}", "test_images": str(len(test)), "test_majority": f"{majority:.4f}"}


def save(classifier: Classifier, notes: dict[str, str], path: Path) -> None:
    """Writes the weights with the notes to `path`, whole or not at all.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    write_file(path, to_bytes(classifier, notes))


@click.command()
@click.option("--data", default="mnist", show_default=True, type=click.Choice(["mnist", "fashion-mnist", "kmnist"]))
@click.option("--out", type=click.Path(path_type=Path), default=COMMITTED)
@click.option("--epochs", default=8, show_default=True)
def main(data: str, out: Path, epochs: int) -> None:
    """Trains the scoring classifier and prints its test accuracy."""
    settings = DataSettings.model_validate({"name": data})
    classifier, notes = train_and_test(settings, epochs=epochs, announce=lambda text: click.echo(text, err=True))
    save(classifier, notes, out)
    click.echo(f"{out}: test accuracy {notes['test_accuracy']}")


if __name__ == "__main__":
    main()
