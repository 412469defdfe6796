"""The classifier whose features and labels the scores are made of, and where its weights come from.

MNIST's weights are in the package (`train_classifier.py` made them, `classifier.safetensors` holds its accuracy). For
another data set the same network is trained on that set's training split once and kept in the user's cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.cache_dir import cache_dir, read_cached, write_cached
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import data_digest, load_split
from ganctl.training.errors import DataError
from ganctl.training.models.base import to_float

FEATURES = 128
COMMITTED = Path(__file__).parent / "classifier.safetensors"
DIGEST_NOTE = "weights_sha256"  # in the metadata of a kept classifier
_CHUNK = 100  # images; larger ones fall out of the caches
_MNIST_TEST = {"test_images": "10000", "test_majority": "0.1135"}  # the committed file was written without these notes


class Classifier(nn.Module):
    """Four 3 × 3 convolutions, two of them with stride 2, then 128 features (after ReLU) and the classes' logits.

    `places` is the number of places that the convolutions leave: see `places_of`.
    """

    def __init__(self, channels: int = 1, classes: int = 10, places: int = 49) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

        self.body = nn.Sequential(
            *block(channels, 32, 1), *block(32, 32, 2), *block(32, 64, 1), *block(64, 64, 2), nn.Flatten(),
            nn.Linear(64 * places, FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(FEATURES, classes)
        self.notes: dict[str, str] = {}  # how it came about, once it is trained: data set, test accuracy, recipe

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [−1, 1] [N, C, H, W] → features [N, 128] and logits [N, classes]."""
        features = self.body(images)
        return features, self.head(features)


def places_of(height: int, width: int) -> int:
    """How many places two strides of 2 leave of an image."""
    return -(-height // 4) * -(-width // 4)


@dataclass(frozen=True)
class Judged:
    """What the classifier makes of N images, on the CPU."""

    features: Tensor  # float32 [N, F]; the classifier's own are 128
    logits: Tensor  # float32 [N, classes]

    @property
    def predictions(self) -> Tensor:
        """The likeliest classes, int64 [N]."""
        return self.logits.argmax(dim=1)


@torch.inference_mode()
def judge(classifier: Classifier, images: Tensor) -> Judged:
    """Features and logits of uint8 images [N, C, H, W] by a classifier in evaluation mode; computed where that is."""
    device = next(classifier.parameters()).device
    body = _folded(classifier.body)
    features, logits = [], []
    for chunk in images.split(_CHUNK):
        # channels last: convolutions of few channels run several times faster on a CPU
        seen = body(to_float(chunk.to(device)).to(memory_format=torch.channels_last))
        features.append(seen.cpu())
        logits.append(classifier.head(seen).cpu())
    return Judged(torch.cat(features), torch.cat(logits))


def _folded(body: nn.Sequential) -> nn.Sequential:
    """The same function with the normalisations multiplied into the convolutions before them: half the time on a CPU,
    which spends it on reading and writing activations."""
    layers: list[nn.Module] = []
    for layer in body:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop()
            assert isinstance(convolution, nn.Conv2d)
            layer = fuse_conv_bn_eval(convolution, layer).to(memory_format=torch.channels_last)
        layers.append(nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else layer)
    return nn.Sequential(*layers)


def load_classifier(data: DataSettings, announce: Callable[[str], None] = lambda text: None) -> Classifier:
    """The classifier of a data set, in evaluation mode on the CPU.

    Args:
        data: the data set; for others than MNIST the first call trains for some minutes. For a single class nothing
            is trained: its loss is zero from the start.
        announce: told when that happens.

    Raises:
        DataError: the weights are damaged, or the training data is not there.
    """
    if data.name == "mnist":
        classifier = read_classifier(COMMITTED)
        classifier.notes = _MNIST_TEST | classifier.notes
        return classifier
    from ganctl.training.evaluation.train_classifier import measured, to_bytes, train_and_test

    cache = cache_dir()
    path = cache / "classifiers" / f"{data_digest(data)}.safetensors" if cache else None
    if (kept := read_cached(path, read_classifier, announce)) is not None:
        if "test_majority" not in kept.notes:  # an earlier version wrote the file
            kept.notes |= measured(kept, load_split(data, "test"))
        return kept
    if len(load_split(data, "train").class_names) == 1:
        with torch.random.fork_rng():
            return train_and_test(data)[0].to(memory_format=torch.channels_last)
    place = f", once; it will be kept in {path}" if path else ""
    announce(f"training the classifier that scores {data.name}{place}")
    with torch.random.fork_rng():  # a training run that asks for it must not notice
        classifier, notes = train_and_test(data, announce=announce)
    accuracy = float(notes["test_accuracy"])
    announce(f"the classifier reads {accuracy:.1%} of the test images right; the scores are as good as that")
    if (reason := write_cached(path, to_bytes(classifier, notes))) is not None:
        announce(f"{reason}; the classifier cannot be kept, and the next run trains it again")
    return classifier.to(memory_format=torch.channels_last)


def read_classifier(path: Path) -> Classifier:
    """Reads weights that `train_classifier.save` wrote."""
    try:
        weights, notes = load_file(path), classifier_notes(path)
        classes, inputs = weights["head.weight"].shape[0], weights["body.13.weight"].shape[1]
        with torch.random.fork_rng(devices=[]):  # fresh weights must not use up the random numbers of a training run
            classifier = Classifier(weights["body.0.weight"].shape[1], classes, inputs // 64)
        classifier.load_state_dict(weights)
        if (expected := notes.get(DIGEST_NOTE)) not in (None, found := weights_digest(weights)):
            raise ValueError(f"the weights have the SHA-256 {found}, expected {expected}")
    except (SafetensorError, RuntimeError, KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"{path}: not the weights of the scoring classifier ({error}); delete it or reinstall"
        ) from error
    classifier.notes = notes
    return classifier.eval().to(memory_format=torch.channels_last)


def classifier_notes(path: Path = COMMITTED) -> dict[str, str]:
    """What is written beside the weights: data set, test accuracy, recipe."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})
