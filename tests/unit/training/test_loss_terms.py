"""Each loss term has, with each backend, the gradient of double backward in float64."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, softplus

from ganctl.training.config.registry import LOSSES
from ganctl.training.config.resolve import resolve
from ganctl.training.device.precision import Precision
from ganctl.training.device.step_inputs import StepInputs
from ganctl.training.device.streams import NO_STREAMS
from ganctl.training.distributed.ranks import SINGLE_RANK
from ganctl.training.errors import ConfigError
from ganctl.training.losses.analytic.backend import AnalyticBackend, find_autograd_reason
from ganctl.training.losses.backend import AutogradBackend, Backend, Batch
from ganctl.training.losses.objective import GANObjective
from ganctl.training.losses.terms import build_terms
from ganctl.training.models.base import Discriminator
from ganctl.training.models.build import build_discriminator, build_generator
from tests.unit.training.steps import CPU, SHAPE, batch, distance_of_features

OFF = {
    "classification": 0.0, "classification_generator": 0.0, "latent_reconstruction": 0.0, "feature_matching": 0.0,
    "rare_weight": 0.0, "r1": 0.0, "r2": 0.0,
}  # fmt: skip


class NoLoss:
    """Adversarial loss of 0, for tests of a single other term."""

    needs_real = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.0 * (real + fake).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return 0.0 * fake.mean()


@dataclass(frozen=True)
class Outputs:
    """Outputs of the discriminator with their autograd graph, computed by plain PyTorch."""

    network: Discriminator
    batch: Batch
    real: Tensor  # features [N, F]
    fake: Tensor
    real_logits: Tensor  # [N]
    fake_logits: Tensor
    real_images: Tensor
    fake_images: Tensor

    @staticmethod
    def of(network: Discriminator, batch: Batch, fake_images: Tensor) -> "Outputs":
        real_images = batch.images.clone().requires_grad_()
        real, fake = (network.features(images) for images in (real_images, fake_images))
        real_logits, fake_logits = (network.logits_from_features(each, batch.labels) for each in (real, fake))
        return Outputs(network, batch, real, fake, real_logits, fake_logits, real_images, fake_images)

    @property
    def latents(self) -> Tensor:
        assert self.batch.generated is not None
        return self.batch.generated.latents

    def classification(self, features: Tensor) -> Tensor:
        """Cross-entropy of the classifier head."""
        assert self.network.classifier is not None
        return cross_entropy(self.network.classifier(features), self.batch.labels)

    def latent_reconstruction(self, features: Tensor) -> Tensor:
        """Mean squared error of the latent head."""
        assert self.network.latent is not None
        return mse_loss(self.network.latent(features), self.latents)


def squared_norm(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the gradient with respect to the images."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


@dataclass(frozen=True)
class Case:
    """One loss term: its settings, and the loss of each network by the formula of its paper; None: no loss."""

    settings: dict[str, float]
    discriminator: Callable[[Outputs], Tensor] | None = None
    generator: Callable[[Outputs], Tensor] | None = None
    loss: str = "none"
    tolerance: float = 1e-6


CASES = {
    "adversarial": Case(
        {},
        lambda out: softplus(out.fake_logits - out.real_logits).mean(),
        lambda out: softplus(out.real_logits - out.fake_logits).mean(),
        "relativistic",
    ),
    "r1": Case({"r1": 0.7}, lambda out: 0.35 * squared_norm(out.real_logits, out.real_images)),
    "r2": Case({"r2": 0.7}, lambda out: 0.35 * squared_norm(out.fake_logits, out.fake_images)),
    "classification": Case({"classification": 1.5}, lambda out: 1.5 * out.classification(out.real)),
    "classification of the generator": Case(
        {"classification": 1.5, "classification_generator": 0.3},
        lambda out: 1.5 * out.classification(out.real),
        lambda out: 0.3 * out.classification(out.fake),
    ),
    "latent reconstruction": Case(
        {"latent_reconstruction": 1.5},
        lambda out: out.latent_reconstruction(out.fake.detach()),
        lambda out: 1.5 * out.latent_reconstruction(out.fake),
    ),
    "feature matching": Case(
        {"feature_matching": 1.5},
        None,
        lambda out: 1.5 * distance_of_features(out.real.detach(), out.fake, out.batch.labels),
        tolerance=1e-3,  # the running means are float32
    ),
    "several terms": Case(
        {"classification": 1.5, "classification_generator": 0.3, "latent_reconstruction": 1.5, "r1": 0.7, "r2": 0.2},
        lambda out: (
            softplus(out.fake_logits - out.real_logits).mean()
            + 0.35 * squared_norm(out.real_logits, out.real_images)
            + 0.1 * squared_norm(out.fake_logits, out.fake_images)
            + 1.5 * out.classification(out.real)
            + out.latent_reconstruction(out.fake.detach())
        ),
        lambda out: (
            softplus(out.real_logits - out.fake_logits).mean()
            + 0.3 * out.classification(out.fake)
            + 1.5 * out.latent_reconstruction(out.fake)
        ),
        "relativistic",
    ),
}


def build(case: Case, backend: type[Backend] | None) -> tuple[GANObjective, Discriminator]:
    assignments = [f"loss.{name}={value}" for name, value in (OFF | case.settings).items()]
    config, _ = resolve(assignments=["model.base_channels=4", f"loss.name={case.loss}", *assignments], environment={})
    torch.manual_seed(0)
    generator = build_generator(config.model, SHAPE, 10).double()
    discriminator = build_discriminator(config.model, SHAPE, 10).double()
    assert isinstance(discriminator, Discriminator)
    return (
        GANObjective(
            config,
            generator,
            discriminator,
            precision=Precision("fp32", "cpu", "a test"),
            ranks=SINGLE_RANK,
            rng=torch.Generator().manual_seed(0),
            step_inputs=StepInputs(CPU),
            backend=backend,
        ),
        discriminator,
    )


@pytest.fixture(autouse=True)
def no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES.entries, "none", NoLoss())


@pytest.mark.parametrize("backend", [AutogradBackend, AnalyticBackend])
@pytest.mark.parametrize("name", CASES)
def test_a_loss_term_has_the_gradient_of_double_backward(name: str, backend: type[Backend]) -> None:
    case = CASES[name]
    objective, discriminator = build(case, backend)
    step = objective.prepare(*batch(), both=True)
    assert step.generated is not None
    of_discriminator = [*discriminator.parameters()]
    expected = Outputs.of(discriminator, step, step.generated.images.detach().requires_grad_())
    loss = torch.zeros(()) if case.discriminator is None else case.discriminator(expected)
    compare(objective.backward_discriminator, step, loss, of_discriminator, case.tolerance)
    of_generator = [*objective.generator.parameters()]
    loss = (
        torch.zeros(())
        if case.generator is None
        else case.generator(Outputs.of(discriminator, step, step.generated.images))
    )
    compare(objective.backward_generator, step, loss, of_generator, case.tolerance)


def compare(
    backward: Callable[[Batch], object],
    step: Batch,
    loss: Tensor,
    parameters: list[torch.nn.Parameter],
    tolerance: float,
) -> None:
    expected: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if loss.requires_grad:
        expected = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    backward(step)
    assert any(gradient is not None for gradient in expected) == loss.requires_grad
    for parameter, gradient in zip(parameters, expected, strict=True):
        actual = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        reference = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(actual, reference, rtol=tolerance, atol=1e-3 * tolerance)


def test_wgan_gp_has_the_gradient_of_double_backward_and_uses_the_autograd_backend_with_a_reason() -> None:
    case = Case({"wgan_gp": 2.0})
    objective, discriminator = build(case, None)
    assert isinstance(objective.backend, AutogradBackend)
    assert objective.autograd_reason is not None
    assert "mixed_grad_norms" in objective.autograd_reason
    step = objective.prepare(*batch(), both=True)
    assert step.generated is not None
    mix = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    objective.backend.backward_discriminator(step, step.generated._replace(images=step.generated.images.detach()), mix)
    gradients = [parameter.grad for parameter in discriminator.features.parameters()]
    epsilon = mix.view(-1, 1, 1, 1)
    mixed = (epsilon * step.images + (1 - epsilon) * step.generated.images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(mixed, step.labels).sum(), mixed, create_graph=True)
    loss = 2.0 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    expected = torch.autograd.grad(loss, [*discriminator.features.parameters()], allow_unused=True)
    for actual, reference in zip(gradients, expected, strict=True):
        assert actual is not None
        reference = torch.zeros_like(actual) if reference is None else reference
        torch.testing.assert_close(actual, reference, rtol=1e-5, atol=1e-9)


def test_a_loss_without_penalties_uses_the_autograd_backend_with_a_reason() -> None:
    objective, _ = build(CASES["adversarial"], None)
    assert isinstance(objective.backend, AutogradBackend)
    assert objective.autograd_reason is not None
    assert "gradient penalties" in objective.autograd_reason
    assert isinstance(build(CASES["r1"], None)[0].backend, AnalyticBackend)


def test_a_layer_without_a_hand_derived_gradient_needs_the_autograd_backend_with_a_reason() -> None:
    objective, discriminator = build(CASES["r1"], None)
    discriminator.features.append(torch.nn.Softplus())
    reason = find_autograd_reason(objective.terms, discriminator, NO_STREAMS)
    assert reason is not None
    assert "layers" in reason


def test_a_loss_term_without_its_head_is_an_error_that_names_the_setting() -> None:
    config, _ = resolve(assignments=["model.discriminator=mlp", "loss.classification=1.0"], environment={})
    networks = build_generator(config.model, SHAPE, 10), build_discriminator(config.model, SHAPE, 10)
    with pytest.raises(ConfigError, match=r"loss\.classification = 1\.0"):
        build_terms(config.loss, *networks, SINGLE_RANK)
