"""Scores equal those of torchmetrics and torch-fidelity in the features of the scoring classifier.

The fakes are real MNIST digits, blurred and shifted at random, so that every score differs from that of real images.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import fixed_permutation
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.classifier import load_classifier
from ganctl.training.evaluation.metrics import (
    Gaussian,
    NeighborRadii,
    frechet_distance,
    inception_score,
    manifold_scores,
)
from ganctl.training.evaluation.network import ClassifierOutput, classify

N = 2000


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Real test images and blurred, shifted training images, uint8 [N, 1, 28, 28]."""
    data = DataSettings()
    real, train = load_split(data, "test").images, load_split(data, "train").images
    chosen = train[fixed_permutation(len(train))[:N]].float()
    rng = torch.Generator().manual_seed(0)
    shifts = torch.randint(-2, 3, (N,), generator=rng).tolist()
    moved = torch.stack([image.roll(shift, dims=2) for image, shift in zip(chosen, shifts, strict=True)])
    fakes = avg_pool2d(moved, 3, stride=1, padding=1).round().to(torch.uint8)
    return real[fixed_permutation(len(real))[:N]], fakes


@pytest.fixture(scope="module")
def outputs(images: tuple[Tensor, Tensor]) -> tuple[ClassifierOutput, ClassifierOutput]:
    classifier = load_classifier(DataSettings())
    real, fakes = images
    return classify(classifier, real), classify(classifier, fakes)


class ClassifierFeatures(nn.Module):
    """The classifier with the interface of torchmetrics: maps uint8 images to features."""

    num_features = 128

    def __init__(self) -> None:
        super().__init__()
        self.classifier = (load_classifier(DataSettings()),)  # in a tuple: not a submodule, whose dtype would change

    def forward(self, images: Tensor) -> Tensor:
        return classify(self.classifier[0], images).features


def distance(real: ClassifierOutput, fake: ClassifierOutput) -> float:
    return frechet_distance(Gaussian.fit(fake.features), Gaussian.fit(real.features))


def test_the_frechet_distance_equals_that_of_torchmetrics(
    images: tuple[Tensor, Tensor], outputs: tuple[ClassifierOutput, ClassifierOutput]
) -> None:
    metric = FrechetInceptionDistance(feature=ClassifierFeatures())
    metric.set_dtype(torch.float64)
    for batch, real in zip(images, (True, False), strict=True):
        metric.update(batch, real=real)
    assert distance(*outputs) > 10
    assert distance(*outputs) == pytest.approx(metric.compute().item(), rel=1e-5)


def test_the_frechet_distance_equals_that_of_torch_fidelity(outputs: tuple[ClassifierOutput, ClassifierOutput]) -> None:
    real, fake = (fid_features_to_statistics(output.features.double()) for output in outputs)
    expected = fid_statistics_to_metric(fake, real, verbose=False)["frechet_inception_distance"]
    assert distance(*outputs) == pytest.approx(expected, rel=1e-6)


def test_precision_and_recall_equal_those_of_torch_fidelity(outputs: tuple[ClassifierOutput, ClassifierOutput]) -> None:
    real, fake = (output.features for output in outputs)
    settings = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    expected = prc_features_to_metric(fake, real, **settings)
    scores = manifold_scores(real, NeighborRadii.of(real), fake)
    assert 0.1 < scores["precision"] < 0.9
    for name in ("precision", "recall"):
        assert scores[name] == pytest.approx(expected[name], rel=1e-3), name


def test_the_inception_score_equals_that_of_torch_fidelity(outputs: tuple[ClassifierOutput, ClassifierOutput]) -> None:
    for output in outputs:
        expected = isc_features_to_metric(output.logits, splits=1)["inception_score_mean"]
        assert inception_score(output.logits) == pytest.approx(expected, rel=1e-6)
