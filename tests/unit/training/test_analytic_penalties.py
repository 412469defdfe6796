"""Analytic R1 and R2: their gradients equal those of autograd, and only piecewise linear discriminators use them."""

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
    "conv in color": (ModelSettings(base_channels=4), ImageShape(3, 32, 28)),
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
    label_inputs = () if labels is None else (labels,)
    images = images.clone().requires_grad_()
    logits = net(images, *label_inputs)
    loss = softplus(-logits).mean() + (kappas / 2 * squared_gradient_norm(logits, images)).sum()
    other_heads = ("classifier", "latent")
    parameters = {name: value for name, value in net.named_parameters() if not name.startswith(other_heads)}
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_analytic_gradients_equal_those_of_double_backward(name: str) -> None:
    net = network(name)
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(N, *NETWORKS[name][1], generator=rng, dtype=torch.float64) * 2 - 1
    labels = None if net.projection is None else torch.arange(N)
    kappas = torch.rand(N, generator=rng, dtype=torch.float64)
    assert is_piecewise_linear(net)
    passes = AnalyticR1R2(net, to_first_layer(net, images))
    logits, image_gradients = passes.image_gradients(labels)
    (dloss_dlogits,) = torch.autograd.grad(softplus(-logits.requires_grad_()).mean(), logits)
    scale = kappas.view(-1, *[1] * (image_gradients.dim() - 1))
    gradients = passes.parameter_gradients(dloss_dlogits, scale * image_gradients)
    names: dict[Tensor, str] = {parameter: name for name, parameter in net.named_parameters()}
    expected = by_autograd(net, images, labels, kappas)
    assert {names[parameter] for parameter in gradients} == set(expected)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[names[parameter]], rtol=1e-10, atol=1e-12)


def test_a_discriminator_with_a_single_linear_layer_is_supported() -> None:
    net = Discriminator(nn.Sequential(nn.Flatten()), 12, None).double()
    images = torch.rand(N, 3, 2, 2, dtype=torch.float64)
    assert is_piecewise_linear(net)
    passes = AnalyticR1R2(net, to_first_layer(net, images))
    logits, image_gradients = passes.image_gradients(None)
    torch.testing.assert_close(logits, net(images))
    kappas = torch.rand(N, dtype=torch.float64)
    no_loss = torch.zeros(N, dtype=torch.float64)
    gradients = passes.parameter_gradients(no_loss, kappas.view(-1, 1, 1, 1) * image_gradients)
    expected = torch.autograd.grad(
        (kappas / 2 * squared_gradient_norm(net(images.requires_grad_()), images)).sum(), net.logit.weight
    )
    torch.testing.assert_close(gradients[net.logit.weight], expected[0])


def test_other_networks_are_not_taken_for_piecewise_linear() -> None:
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
    normalized = features()
    spectral_norm(normalized.logit)
    assert not is_piecewise_linear(normalized)
