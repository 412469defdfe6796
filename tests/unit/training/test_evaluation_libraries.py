"""Scores equal those of torchmetrics and torch-fidelity in the same features, those of each measure.

The fakes are real MNIST digits, blurred and shifted at random, so that every score differs from that of real images.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import fixed_permutation
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.metrics import (
    Gaussian,
    NeighborRadii,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_scores,
)
from ganctl.training.evaluation.network import ScorerOutput
from ganctl.training.evaluation.scorer import Scorer, load_scorer

N = 1000


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


@pytest.fixture(scope="module", params=[1, 2], ids=["measure 1", "measure 2"])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return load_scorer(DataSettings(), measure=request.param)


@pytest.fixture(scope="module")
def outputs(scorer: Scorer, images: tuple[Tensor, Tensor]) -> tuple[ScorerOutput, ScorerOutput]:
    """Features and logits of the real and the fake images."""
    real, fakes = images
    return scorer(real), scorer(fakes)


class GivenFeatures(nn.Module):
    """Has the interface of torchmetrics for a network, and is given features instead of images."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def distance(real: ScorerOutput, fake: ScorerOutput) -> float:
    return frechet_distance(Gaussian.fit(fake.features), Gaussian.fit(real.features))


def test_the_frechet_distance_equals_that_of_torchmetrics(outputs: tuple[ScorerOutput, ScorerOutput]) -> None:
    metric = FrechetInceptionDistance(feature=GivenFeatures(outputs[0].features.shape[1]), input_img_size=(1, 28, 28))
    metric.set_dtype(torch.float64)
    for output, real in zip(outputs, (True, False), strict=True):
        metric.update(output.features.double(), real=real)
    assert distance(*outputs) > 1
    assert distance(*outputs) == pytest.approx(metric.compute().item(), rel=1e-5)


def test_the_frechet_distance_equals_that_of_torch_fidelity(outputs: tuple[ScorerOutput, ScorerOutput]) -> None:
    real, fake = (fid_features_to_statistics(output.features.double()) for output in outputs)
    expected = fid_statistics_to_metric(fake, real, verbose=False)["frechet_inception_distance"]
    assert distance(*outputs) == pytest.approx(expected, rel=1e-6)


def test_the_kernel_distance_equals_that_of_torch_fidelity(outputs: tuple[ScorerOutput, ScorerOutput]) -> None:
    real, fake = (output.features for output in outputs)
    settings = {"kid_subsets": 1, "kid_subset_size": N, "verbose": False}  # a single subset: all images
    expected = kid_features_to_metric(fake.double(), real.double(), **settings)["kernel_inception_distance_mean"]
    kid, error = kernel_distance(fake, real)
    assert kid > 5 * error
    assert kid == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*will save all extracted features:UserWarning")
def test_the_kernel_distance_equals_that_of_torchmetrics(outputs: tuple[ScorerOutput, ScorerOutput]) -> None:
    network = GivenFeatures(outputs[0].features.shape[1])
    metric = KernelInceptionDistance(feature=network, subsets=1, subset_size=N)
    metric.set_dtype(torch.float64)
    for output, real in zip(outputs, (True, False), strict=True):
        metric.update(output.features.double(), real=real)
    assert kernel_distance(outputs[1].features, outputs[0].features)[0] == pytest.approx(
        metric.compute()[0].item(), rel=1e-6
    )


def test_the_standard_error_of_the_kernel_distance_is_about_its_spread_over_independent_sets(
    outputs: tuple[ScorerOutput, ScorerOutput],
) -> None:
    real, fake = (output.features.split(N // 20) for output in outputs)
    distances, errors = zip(*(kernel_distance(*pair) for pair in zip(fake, real, strict=True)), strict=True)
    spread = torch.tensor(distances).std().item()
    assert 0.5 * spread < sum(errors) / len(errors) < 2 * spread


def test_precision_and_recall_equal_those_of_torch_fidelity(outputs: tuple[ScorerOutput, ScorerOutput]) -> None:
    real, fake = (output.features for output in outputs)
    settings = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    expected = prc_features_to_metric(fake, real, **settings)
    scores = manifold_scores(real, NeighborRadii.of(real), fake)
    assert 0 < scores["precision"] < 0.9
    for name in ("precision", "recall"):
        assert scores[name] == pytest.approx(expected[name], rel=1e-3), name


def test_the_inception_score_equals_that_of_torch_fidelity(outputs: tuple[ScorerOutput, ScorerOutput]) -> None:
    for output in outputs:
        expected = isc_features_to_metric(output.logits, splits=1)["inception_score_mean"]
        assert inception_score(output.logits) == pytest.approx(expected, rel=1e-6)
