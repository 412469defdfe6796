"""Penalties of a piecewise linear discriminator: four passes give autograd's gradients, only where they are exact."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.parametrizations import spectral_norm

from ganctl.training.config.schema import ModelSettings
from ganctl.training.losses.analytic.passes import AnalyticR1R2, is_piecewise_linear, to_first_layer
from ganctl.training.losses.gradient_penalty import squared_gradient_norm
from ganctl.training.models.base import Discriminator, ImageShape
from ganctl.training.models.build import build_discriminator

N = 6
NETWORKS = {
    "conv": (ModelSettings(base_channels=4), ImageShape(1, 28, 28)),
    "conv in colour": (ModelSettings(base_channels=4), ImageShape(3, 32, 28)),
    "conv without labels": (ModelSettings(base_channels=4, conditional=False), ImageShape(1, 28, 28)),
    "mlp": (ModelSettings(discriminator="mlp", conditioning="projection"), ImageShape(1, 28, 28)),
}


def network(name: str) -> Discriminator:
    settings, shape = NETWORKS[name]
    torch.manual_seed(0)
    built = build_discriminator(settings, shape, 10).double()
    assert isinstance(built, Discriminator)
    return built


def by_autograd(net: Discriminator, images: Tensor, labels: Tensor | None, kappas: Tensor) -> dict[str, Tensor]:
    known = () if labels is None else (labels,)
    images = images.clone().requires_grad_()
    logits = net(images, *known)
    loss = softplus(-logits).mean() + (kappas / 2 * squared_gradient_norm(logits, images)).sum()
    judging = {name: value for name, value in net.named_parameters() if not name.startswith(("classifier", "latent"))}
    return dict(zip(judging, torch.autograd.grad(loss, list(judging.values())), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_four_passes_give_the_gradients_of_double_backward(name: str) -> None:
    net = network(name)
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(N, *NETWORKS[name][1], generator=rng, dtype=torch.float64) * 2 - 1
    labels = None if net.projection is None else torch.arange(N)
    kappas = torch.rand(N, generator=rng, dtype=torch.float64)
    assert is_piecewise_linear(net)
    passes = AnalyticR1R2(net, to_first_layer(net, images))
    logits, gradients = passes.image_gradients(labels)
    (slopes,) = torch.autograd.grad(softplus(-logits.requires_grad_()).mean(), logits)
    found = passes.parameter_gradients(slopes, kappas.view(-1, *[1] * (gradients.dim() - 1)) * gradients)
    names: dict[Tensor, str] = {parameter: name for name, parameter in net.named_parameters()}
    expected = by_autograd(net, images, labels, kappas)
    assert {names[parameter] for parameter in found} == set(expected)
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient, expected[names[parameter]], rtol=1e-10, atol=1e-12)


def test_a_network_that_only_moves_pixels_before_it_judges_is_known_too() -> None:
    net = Discriminator(nn.Sequential(nn.Flatten()), 12, None).double()
    images = torch.rand(N, 3, 2, 2, dtype=torch.float64)
    assert is_piecewise_linear(net)
    passes = AnalyticR1R2(net, to_first_layer(net, images))
    logits, gradients = passes.image_gradients(None)
    torch.testing.assert_close(logits, net(images))
    kappas = torch.rand(N, dtype=torch.float64)
    found = passes.parameter_gradients(torch.zeros(N, dtype=torch.float64), kappas.view(-1, 1, 1, 1) * gradients)
    expected = torch.autograd.grad(
        (kappas / 2 * squared_gradient_norm(net(images.requires_grad_()), images)).sum(), net.logit.weight
    )
    torch.testing.assert_close(found[net.logit.weight], expected[0])


def test_what_is_not_piecewise_linear_is_left_to_autograd() -> None:
    class Squared(Discriminator):
        def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
            return super().forward(images, label).square()

    class Doubled(Discriminator):
        def logits_from_features(self, features: Tensor, label: Tensor | None = None) -> Tensor:
            return 2 * super().logits_from_features(features, label)

    class ScaledLinear(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 3

    def features(*layers: nn.Module) -> Discriminator:
        return Discriminator(nn.Sequential(nn.Flatten(), nn.Linear(784, 8), *layers), 8, 10)

    assert is_piecewise_linear(features(nn.LeakyReLU(0.2)))
    assert not is_piecewise_linear(features(nn.Softplus()))
    assert not is_piecewise_linear(features(nn.Dropout()))
    assert not is_piecewise_linear(nn.Linear(784, 1))
    assert not is_piecewise_linear(Squared(nn.Sequential(nn.Flatten(), nn.Linear(784, 8)), 8, 10))
    assert not is_piecewise_linear(Doubled(nn.Sequential(nn.Flatten(), nn.Linear(784, 8)), 8, 10))
    assert not is_piecewise_linear(features(ScaledLinear(8, 8)))
    normalised = features()
    spectral_norm(normalised.logit)
    assert not is_piecewise_linear(normalised)
