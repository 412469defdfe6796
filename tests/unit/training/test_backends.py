"""The analytic backend gives both networks the gradients and losses of the autograd backend."""

import pytest
import torch

from ganctl.training.losses.analytic.backend import AnalyticBackend
from ganctl.training.losses.backend import AutogradBackend
from ganctl.training.step.step import Step
from tests.unit.training.steps import batch, build

PLAIN = ("loss.r1=0", "loss.r2=0")
VARIANTS = {
    "tutorial": ("lightning-basic-gan", ()),
    "tutorial, generator first": ("lightning-basic-gan", ("train.first_update=generator", "train.reuse_fakes=false")),
    "labels, all heads, pairs": ("conv", PLAIN),
    "labels, no heads": (
        "conv",
        (*PLAIN, "loss.classification=0", "loss.latent_reconstruction=0", "loss.feature_matching=0"),
    ),
    "no labels, non-saturating": ("conv", (*PLAIN, "model.conditional=false", "loss.name=non-saturating")),
    "more layers, penalties": ("conv", ("model.discriminator_depth=2",)),
    "separate phases": ("conv", (*PLAIN, "train.reuse_fakes=false", "train.first_update=generator")),
    "discriminator more often": ("conv", (*PLAIN, "train.n_critic=2")),
    "augmented": ("conv", ("augment.probability=0.7", "augment.flip=true")),
    "augmented, separate phases": ("conv", (*PLAIN, "augment.probability=adaptive", "train.reuse_fakes=false")),
}


def run_two_steps(step: Step) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Returns the gradients of the second step, and the mean losses."""
    for number in range(2):
        step(*batch(), step=number, progress=0.0)
    gradients = {
        f"{phase.name}.{name}": parameter.grad
        for phase in step.phases
        for name, parameter in phase.network.named_parameters()
        if parameter.grad is not None
    }
    return gradients, step.read_stats()


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_and_losses_equal_those_of_autograd(variant: str) -> None:
    preset, assignments = VARIANTS[variant]
    gradients, stats = run_two_steps(build(*assignments, preset=preset, backend=AnalyticBackend)[1])
    expected, expected_stats = run_two_steps(build(*assignments, preset=preset, backend=AutogradBackend)[1])
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, name
    assert stats == pytest.approx(expected_stats, rel=1e-3, abs=1e-5)
