"""Small convolutional classifier: the scorer of measure 1, and the network of the classification accuracy score."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ganctl.training.device.turns import in_turns
from ganctl.training.models.base import to_float

FEATURES = 128
MNIST_CLASSIFIER = Path(__file__).parent / "classifier.safetensors"
DIGEST_KEY = "weights_sha256"  # in the metadata of a cached classifier
_CHUNK = 100  # images; larger chunks do not fit into a CPU's caches


class Classifier(nn.Module):
    """Four 3 × 3 convolutions (two with stride 2), a linear layer to 128 features (after ReLU), and a linear head.

    Attributes:
        channels: number of channels of an image.
        positions: number of spatial positions after the convolutions; see `spatial_positions`.
        metadata: describe a trained classifier: data set, test accuracy, training recipe.
    """

    def __init__(self, channels: int, classes: int, positions: int) -> None:
        super().__init__()
        self.channels, self.positions = channels, positions

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


class ScorerOutput(NamedTuple):
    """Features and class logits of N images, on the CPU."""

    features: Tensor  # float32 [N, F]
    logits: Tensor  # float32 [N, classes]; [N, 1] of zeros if the data have no classes to tell apart

    @property
    def predictions(self) -> Tensor:
        """The most likely classes, int64 [N]."""
        return self.logits.argmax(dim=1)


@torch.inference_mode()
def classify(classifier: Classifier, images: Tensor) -> ScorerOutput:
    """Computes features and logits of uint8 images [N, C, H, W] on the device of the classifier.

    The classifier must be in evaluation mode.
    """
    device = next(classifier.parameters()).device
    body = _fuse_batch_norm(classifier.body)
    all_features, logits = [], []
    for chunk in in_turns(images.split(_CHUNK)):
        # channels last: convolutions of few channels run several times faster on a CPU
        features = body(to_float(chunk.to(device)).to(memory_format=torch.channels_last))
        all_features.append(features.cpu())
        logits.append(classifier.head(features).cpu())
    return ScorerOutput(torch.cat(all_features), torch.cat(logits))


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
