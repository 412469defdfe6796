"""Label classifier of the scores: multinomial logistic regression on the features of the feature network.

It is fitted to the training images, in half a minute on two cores, and tested on the test images. It shares nothing
with the networks of a training run: a generator that learned to please a classification loss does not please this
classifier for that reason.

    python -m ganctl.training.evaluation.label_classifier [--out FILE]

made the packaged weights for MNIST, `mnist_labels.safetensors`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ganctl import __version__
from ganctl.files import write_file
from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.cache_dir import keyed_path, read_cached, write_cached
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.data.datasets import data_digest, load_split
from ganctl.training.device.turns import next_turn
from ganctl.training.evaluation.feature_network import load_feature_network
from ganctl.training.evaluation.reference_stats import subsample
from ganctl.training.evaluation.validity import LabelSkill
from ganctl.training.pretrained import FEATURES_FILE
from ganctl.training.pretrained.weights import DIGEST_KEY, read_tensors

MNIST_WEIGHTS = Path(__file__).parent / "mnist_labels.safetensors"
TRAINING_IMAGES = 20_000  # more improve the accuracy little, and computing their features takes most of the time
TEST_IMAGES = 10_000  # enough for an accuracy with a standard error of half a percent
_PENALTY = 1e-3  # of the mean squared weights, per image
_MIN_DEVIATION = 0.1  # of a feature, as a share of the mean deviation: features that hardly vary are not blown up
_ITERATIONS = 60
_FORMAT = 2  # of the cached file; raise it when the fit changes


@dataclass(frozen=True)
class LabelClassifier:
    """Weights of a fitted classifier, and its skill on the test images."""

    weight: Tensor  # float32 [768, classes]
    bias: Tensor  # float32 [classes]
    skill: LabelSkill

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return weights_digest({"weight": self.weight, "bias": self.bias})

    def __call__(self, features: Tensor) -> Tensor:
        """Label features of the feature network, float32 [N, 768] → logits [N, classes]."""
        return torch.addmm(self.bias, features, self.weight)


def load_label_classifier(
    data: DataSettings, device: torch.device, announce: Callable[[str], None] = lambda text: None
) -> LabelClassifier | None:
    """Returns the label classifier of a data set; None if the data have no labels, or one class.

    The weights for MNIST are part of the package. For other data the first call fits the classifier; the result is
    cached.

    Raises:
        DataError: the data are absent or damaged.
    """
    if data.source == "mnist":
        return _from_tensors(*read_tensors(MNIST_WEIGHTS))
    train = load_split(data, "train")
    if train.num_classes == 1:
        return None
    key = {"format": _FORMAT, "data": data_digest(data), "features": read_tensors(FEATURES_FILE)[1][DIGEST_KEY]}
    path = keyed_path("label-classifiers", key, ".safetensors")
    if (cached := read_cached(path, lambda path: _from_tensors(*read_tensors(path)), announce)) is not None:
        return cached
    announce(
        f"fitting the classifier that reads the labels of {data.name}, once" + (f"; cached in {path}" if path else "")
    )
    classifier = fit(train, load_split(data, "test"), device)
    announce(f"the classifier reads {classifier.skill.accuracy:.1%} of the test images right")
    if (reason := write_cached(path, _to_bytes(classifier))) is not None:
        announce(f"{reason}; the classifier is not cached: the next run fits it again")
    return classifier


def fit(train: ImageSet, test: ImageSet, device: torch.device) -> LabelClassifier:
    """Fits a classifier to images of `train`, by L-BFGS, and measures its accuracy on images of `test`.

    Features are standardized for the fit; the returned weights include that.
    """
    network = load_feature_network(device)
    features = network.extract(subsample(train.images, TRAINING_IMAGES)).label
    labels = subsample(train.labels, TRAINING_IMAGES)
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    deviation = deviation + _MIN_DEVIATION * deviation.mean()
    standardized = (features - mean) / deviation
    weight = torch.zeros(features.shape[1], train.num_classes, requires_grad=True)
    bias = torch.zeros(train.num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        next_turn()
        optimizer.zero_grad()
        value = cross_entropy(standardized @ weight + bias, labels) + _PENALTY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    weight, bias = weight.detach() / deviation[:, None], bias.detach()
    bias = bias - mean @ weight
    held_out = network.extract(subsample(test.images, TEST_IMAGES)).label
    predictions = torch.addmm(bias, held_out, weight).argmax(dim=1)
    return LabelClassifier(weight, bias, LabelSkill.measure(predictions, subsample(test.labels, TEST_IMAGES)))


def _to_bytes(classifier: LabelClassifier) -> bytes:
    tensors = {"weight": classifier.weight, "bias": classifier.bias}
    metadata = classifier.skill.to_metadata() | {"ganctl_version": __version__, DIGEST_KEY: weights_digest(tensors)}
    return safetensors.torch.save(tensors, metadata=metadata)


def _from_tensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> LabelClassifier:
    return LabelClassifier(tensors["weight"], tensors["bias"], LabelSkill.from_metadata(metadata))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=MNIST_WEIGHTS)
def main(out: Path) -> None:
    """Fit the label classifier of MNIST and print its test accuracy."""
    data = DataSettings()
    classifier = fit(load_split(data, "train"), load_split(data, "test"), torch.device("cpu"))
    write_file(out, _to_bytes(classifier))
    click.echo(f"{out}: test accuracy {classifier.skill.accuracy}")


if __name__ == "__main__":
    main()
