"""The networks have the shapes and the layers that they promise."""

import pytest
import torch
from torch import nn

from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import ModelSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.base import ImageShape, to_bytes, to_float
from ganctl.training.models.batch_norm import BatchNorm1d
from ganctl.training.models.build import build_discriminator, build_generator


def settings(**values: object) -> ModelSettings:
    return ModelSettings.model_validate(values)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("shape", [ImageShape(1, 28, 28), ImageShape(3, 32, 40)])
def test_generators_draw_in_range_and_discriminators_judge_each_image(
    kind: str, conditional: bool, shape: ImageShape
) -> None:
    model = settings(generator=kind, discriminator=kind, conditional=conditional, base_channels=8)
    generator, discriminator = build_generator(model, shape, 10), build_discriminator(model, shape, 10)
    labels = torch.arange(6)
    images = generator(torch.randn(6, model.latent_dim), labels if conditional else None)
    assert images.shape == (6, *shape)
    assert images.abs().max() <= 1
    assert discriminator(images, labels if conditional else None).shape == (6,)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_labels_matter_to_conditional_networks(kind: str) -> None:
    model = settings(generator=kind, discriminator=kind, base_channels=8)
    generator = build_generator(model, ImageShape(1, 28, 28), 10).eval()
    discriminator = build_discriminator(model, ImageShape(1, 28, 28), 10)
    z, one, two = torch.randn(4, model.latent_dim), torch.full((4,), 1), torch.full((4,), 2)
    assert not torch.allclose(generator(z, one), generator(z, two))
    images = generator(z, one)
    assert not torch.allclose(discriminator(images, one), discriminator(images, two))


def test_the_generator_may_have_a_width_of_its_own() -> None:
    def weights(**values: object) -> tuple[int, int]:
        model = settings(base_channels=8, **values)
        networks = (
            build_generator(model, ImageShape(1, 28, 28), 10),
            build_discriminator(model, ImageShape(1, 28, 28), 10),
        )
        generator, discriminator = (sum(weight.numel() for weight in network.parameters()) for network in networks)
        return generator, discriminator

    assert weights(generator_base_channels=8) == weights()
    narrow = weights(generator_base_channels=4)
    assert narrow[0] < weights()[0]
    assert narrow[1] == weights()[1]


def test_the_tutorials_networks_are_rebuilt_layer_by_layer() -> None:
    model = resolve(preset="lightning-basic-gan", environment={})[0].model
    generator = build_generator(model, ImageShape(1, 28, 28), 10)
    discriminator = build_discriminator(model, ImageShape(1, 28, 28), 10)
    linear = [(m.in_features, m.out_features) for m in generator.modules() if isinstance(m, nn.Linear)]
    assert linear == [(100, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
    norms = [(m.num_features, m.eps) for m in generator.modules() if isinstance(m, nn.BatchNorm1d)]
    assert norms == [(256, 0.8), (512, 0.8), (1024, 0.8)]
    judged = [(m.in_features, m.out_features) for m in discriminator.modules() if isinstance(m, nn.Linear)]
    assert judged == [(784, 512), (512, 256), (256, 1)]
    assert not any(isinstance(m, nn.Sigmoid) for m in discriminator.modules())


def test_images_of_an_odd_size_are_refused_by_the_conv_networks() -> None:
    with pytest.raises(ConfigError, match="multiples of 4"):
        build_generator(settings(), ImageShape(1, 30, 28), 10)
    with pytest.raises(ConfigError, match="multiples of 4"):
        build_discriminator(settings(), ImageShape(1, 28, 30), 10)


def test_every_grey_level_survives_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_float(levels).min() == -1
    assert to_float(levels).max() == 1
    assert torch.equal(to_bytes(to_float(levels)), levels)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("conditioning", ["auto", "projection", "embedding"])
def test_the_discriminator_sees_the_label_by_projection_or_embedding_or_not_at_all(
    kind: str, conditioning: str
) -> None:
    torch.manual_seed(0)
    shape, images = ImageShape(3, 28, 28), torch.rand(2, 3, 28, 28)
    model = settings(discriminator=kind, conditioning=conditioning, base_channels=4)
    sees = build_discriminator(model, shape, 10)
    names = dict(sees.named_parameters())
    by_projection = conditioning == "projection" or (conditioning == "auto" and kind == "conv")
    assert ("projection.weight" in names, "embedding.weight" in names) == (by_projection, not by_projection)
    zero, one = (sees(images, torch.full((2,), label)) for label in (0, 1))
    assert not torch.allclose(zero, one)
    blind = build_discriminator(model.model_copy(update={"conditional": False}), shape, 10)
    assert torch.equal(blind(images, torch.zeros(2).long()), blind(images, torch.ones(2).long()))


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_spectral_normalisation_brings_every_layer_to_a_largest_singular_value_of_1(kind: str) -> None:
    torch.manual_seed(0)
    model = settings(discriminator=kind, spectral_norm=True, base_channels=4)
    discriminator = build_discriminator(model, ImageShape(1, 28, 28), 10)
    labels = torch.zeros(2, dtype=torch.int64)
    for _ in range(50):
        discriminator(torch.rand(2, 1, 28, 28), labels)
    layers = [
        m
        for name, m in discriminator.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding) and name not in ("classifier", "latent")  # not judging
    ]
    assert len(layers) >= 4
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        assert largest == pytest.approx(1, abs=0.02), layer
    again = build_discriminator(model, ImageShape(1, 28, 28), 10)
    again.load_state_dict(discriminator.state_dict())
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(again.eval()(images, labels), discriminator.eval()(images, labels))


def test_uncounted_batch_normalisation_is_pytorchs_otherwise() -> None:
    ours, theirs = BatchNorm1d(5, 0.8), nn.BatchNorm1d(5, 0.8)
    for _ in range(3):
        x = torch.randn(7, 5)
        assert torch.equal(ours(x), theirs(x))
    theirs.num_batches_tracked.zero_()  # type: ignore[union-attr]  # PyTorch types it as optional
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
