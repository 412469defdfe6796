"""The classifier that provides the features and label predictions for scoring, and the loading of its weights.

The weights for MNIST are part of the package (`classifier.safetensors`, made by `train_classifier.py`; its metadata
hold the test accuracy). For another data set the network is trained once on its training split and cached.
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
MNIST_CLASSIFIER = Path(__file__).parent / "classifier.safetensors"
DIGEST_KEY = "weights_sha256"  # in the metadata of a cached classifier
_CHUNK = 100  # images; larger chunks do not fit into a CPU's caches
_MNIST_TEST = {"test_images": "10000", "test_majority": "0.1135"}  # metadata that the packaged file lacks


class Classifier(nn.Module):
    """Four 3 × 3 convolutions (two with stride 2), a linear layer to 128 features (after ReLU), and a linear head.

    `positions` is the number of spatial positions after the convolutions; see `spatial_positions`. `metadata` describes
    a trained classifier: data set, test accuracy, training recipe.
    """

    def __init__(self, channels: int = 1, classes: int = 10, positions: int = 49) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

        self.body = nn.Sequential(
            *block(channels, 32, 1), *block(32, 32, 2), *block(32, 64, 1), *block(64, 64, 2), nn.Flatten(),
            nn.Linear(64 * positions, FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(FEATURES, classes)
        self.metadata: dict[str, str] = {}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [−1, 1] [N, C, H, W] → features [N, 128] and logits [N, classes]."""
        features = self.body(images)
        return features, self.head(features)


def spatial_positions(height: int, width: int) -> int:
    """Number of spatial positions of an image after two strides of 2."""
    return -(-height // 4) * -(-width // 4)


@dataclass(frozen=True)
class ClassifierOutput:
    """Features and logits of N images, on the CPU."""

    features: Tensor  # float32 [N, F]; F is 128, or that of another feature extractor
    logits: Tensor  # float32 [N, classes]

    @property
    def predictions(self) -> Tensor:
        """The most likely classes, int64 [N]."""
        return self.logits.argmax(dim=1)


@torch.inference_mode()
def classify(classifier: Classifier, images: Tensor) -> ClassifierOutput:
    """Computes features and logits of uint8 images [N, C, H, W] on the device of the classifier.

    The classifier must be in evaluation mode.
    """
    device = next(classifier.parameters()).device
    body = _fuse_batch_norm(classifier.body)
    all_features, logits = [], []
    for chunk in images.split(_CHUNK):
        # channels last: convolutions of few channels run several times faster on a CPU
        features = body(to_float(chunk.to(device)).to(memory_format=torch.channels_last))
        all_features.append(features.cpu())
        logits.append(classifier.head(features).cpu())
    return ClassifierOutput(torch.cat(all_features), torch.cat(logits))


def _fuse_batch_norm(body: nn.Sequential) -> nn.Sequential:
    """Folds each batch normalization into its convolution: half the time on a CPU, which is bound by memory traffic."""
    layers: list[nn.Module] = []
    for layer in body:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop()
            assert isinstance(convolution, nn.Conv2d)
            layer = fuse_conv_bn_eval(convolution, layer).to(memory_format=torch.channels_last)
        layers.append(nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else layer)
    return nn.Sequential(*layers)


def load_classifier(data: DataSettings, announce: Callable[[str], None] = lambda text: None) -> Classifier:
    """Loads the classifier of a data set, in evaluation mode on the CPU.

    Args:
        data: the data set. For a data set other than MNIST the first call trains the classifier, which takes minutes.
            With a single class it keeps its fresh weights: the loss is zero from the start.
        announce: receives progress messages.

    Raises:
        DataError: the weights are damaged, or the training data are absent.
    """
    if data.name == "mnist":
        classifier = read_classifier(MNIST_CLASSIFIER)
        classifier.metadata = _MNIST_TEST | classifier.metadata
        return classifier
    from ganctl.training.evaluation.train_classifier import accuracy_metadata, serialize_classifier, train_and_test

    cache = cache_dir()
    path = cache / "classifiers" / f"{data_digest(data)}.safetensors" if cache else None
    if (cached := read_cached(path, read_classifier, announce)) is not None:
        if "test_majority" not in cached.metadata:  # written by an earlier version
            cached.metadata |= accuracy_metadata(cached, load_split(data, "test"))
        return cached
    if len(load_split(data, "train").class_names) == 1:
        with torch.random.fork_rng():
            return train_and_test(data)[0].to(memory_format=torch.channels_last)
    destination = f", once; it is cached in {path}" if path else ""
    announce(f"training the classifier that scores {data.name}{destination}")
    with torch.random.fork_rng():  # keeps the random state of a surrounding training run
        classifier, metadata = train_and_test(data, announce=announce)
    accuracy = float(metadata["test_accuracy"])
    announce(f"the test accuracy of the classifier is {accuracy:.1%}; it limits the accuracy of the scores")
    if (reason := write_cached(path, serialize_classifier(classifier, metadata))) is not None:
        announce(f"{reason}; the classifier is not cached: the next run trains it again")
    return classifier.to(memory_format=torch.channels_last)


def read_classifier(path: Path) -> Classifier:
    """Reads a classifier that `train_classifier.save_classifier` wrote, in evaluation mode on the CPU.

    Raises:
        DataError: the file is damaged, or holds other weights.
    """
    try:
        weights, metadata = load_file(path), read_classifier_metadata(path)
        classes, inputs = weights["head.weight"].shape[0], weights["body.13.weight"].shape[1]
        with torch.random.fork_rng(devices=[]):  # keeps the random state of a surrounding training run
            classifier = Classifier(weights["body.0.weight"].shape[1], classes, inputs // 64)
        classifier.load_state_dict(weights)
        if (expected := metadata.get(DIGEST_KEY)) not in (None, found := weights_digest(weights)):
            raise ValueError(f"SHA-256 of the weights: found {found}, expected {expected}")
    except (SafetensorError, RuntimeError, KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"{path}: expected the weights of the scoring classifier ({error}). Delete the file, or reinstall ganctl"
        ) from error
    classifier.metadata = metadata
    return classifier.eval().to(memory_format=torch.channels_last)


def read_classifier_metadata(path: Path = MNIST_CLASSIFIER) -> dict[str, str]:
    """Reads the metadata of a classifier file: data set, test accuracy, training recipe."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})
