"""The networks have the documented shapes and layers."""

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
def test_generators_return_images_in_range_and_discriminators_one_logit_for_each_image(
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
def test_outputs_of_conditional_networks_depend_on_the_label(kind: str) -> None:
    model = settings(generator=kind, discriminator=kind, base_channels=8)
    generator = build_generator(model, ImageShape(1, 28, 28), 10).eval()
    discriminator = build_discriminator(model, ImageShape(1, 28, 28), 10)
    z, one, two = torch.randn(4, model.latent_dim), torch.full((4,), 1), torch.full((4,), 2)
    assert not torch.allclose(generator(z, one), generator(z, two))
    images = generator(z, one)
    assert not torch.allclose(discriminator(images, one), discriminator(images, two))


def test_a_setting_of_one_network_leaves_the_other_as_it_is() -> None:
    def count_weights(**values: object) -> tuple[int, int]:
        model = settings(base_channels=8, **values)
        networks = (
            build_generator(model, ImageShape(1, 28, 28), 10),
            build_discriminator(model, ImageShape(1, 28, 28), 10),
        )
        generator, discriminator = (sum(weight.numel() for weight in network.parameters()) for network in networks)
        return generator, discriminator

    assert count_weights(generator_base_channels=8) == count_weights()
    narrow = count_weights(generator_base_channels=4)
    assert narrow[0] < count_weights()[0]
    assert narrow[1] == count_weights()[1]
    two_convolutions = 2 * (16 * 16 * 9 + 16)  # 3 × 3, of 16 channels
    assert count_weights(generator_depth=2) == (count_weights()[0] + two_convolutions, narrow[1])
    assert count_weights(discriminator_depth=2) == (count_weights()[0], narrow[1] + two_convolutions)


def test_further_convolutions_leave_the_first_images_as_dependent_on_z() -> None:
    """Otherwise the discriminator wins before the generator learns to use z."""

    def variation(depth: int) -> float:
        torch.manual_seed(0)
        model = settings(generator="conv", base_channels=16, generator_depth=depth)
        generator = build_generator(model, ImageShape(1, 28, 28), 10)
        images = generator(torch.randn(64, model.latent_dim), torch.zeros(64, dtype=torch.int64))
        return float(images.detach().std(dim=0).mean())

    assert variation(2) > 0.5 * variation(0)


def test_the_lightning_preset_has_the_layers_of_the_tutorial() -> None:
    model = resolve(preset="lightning-basic-gan", environment={})[0].model
    generator = build_generator(model, ImageShape(1, 28, 28), 10)
    discriminator = build_discriminator(model, ImageShape(1, 28, 28), 10)
    generator_layers = [(m.in_features, m.out_features) for m in generator.modules() if isinstance(m, nn.Linear)]
    assert generator_layers == [(100, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
    norms = [(m.num_features, m.eps) for m in generator.modules() if isinstance(m, nn.BatchNorm1d)]
    assert norms == [(256, 0.8), (512, 0.8), (1024, 0.8)]
    discriminator_layers = [
        (m.in_features, m.out_features) for m in discriminator.modules() if isinstance(m, nn.Linear)
    ]
    assert discriminator_layers == [(784, 512), (512, 256), (256, 1)]
    assert not any(isinstance(m, nn.Sigmoid) for m in discriminator.modules())


def test_conv_networks_refuse_image_sizes_that_are_not_multiples_of_4() -> None:
    with pytest.raises(ConfigError, match=r"model\.generator = 'conv': .*\b30 × 28\b.*\b4\b.*'mlp'"):
        build_generator(settings(), ImageShape(1, 30, 28), 10)
    with pytest.raises(ConfigError, match=r"model\.discriminator = 'conv': .*\b28 × 30\b.*\b4\b.*'mlp'"):
        build_discriminator(settings(), ImageShape(1, 28, 30), 10)


def test_every_gray_level_is_unchanged_by_conversion_to_float_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert to_float(levels).min() == -1
    assert to_float(levels).max() == 1
    assert torch.equal(to_bytes(to_float(levels)), levels)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("conditioning", ["auto", "projection", "embedding"])
def test_the_discriminator_is_conditioned_by_projection_or_embedding_or_not_at_all(
    kind: str, conditioning: str
) -> None:
    torch.manual_seed(0)
    shape, images = ImageShape(3, 28, 28), torch.rand(2, 3, 28, 28)
    model = settings(discriminator=kind, conditioning=conditioning, base_channels=4)
    conditional = build_discriminator(model, shape, 10)
    names = dict(conditional.named_parameters())
    projects = conditioning == "projection" or (conditioning == "auto" and kind == "conv")
    assert ("projection.weight" in names, "embedding.weight" in names) == (projects, not projects)
    zero, one = (conditional(images, torch.full((2,), label)) for label in (0, 1))
    assert not torch.allclose(zero, one)
    unconditional = build_discriminator(model.model_copy(update={"conditional": False}), shape, 10)
    zero, one = (unconditional(images, torch.full((2,), label)) for label in (0, 1))
    assert torch.equal(zero, one)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_spectral_norm_gives_every_layer_a_largest_singular_value_of_1(kind: str) -> None:
    torch.manual_seed(0)
    model = settings(discriminator=kind, spectral_norm=True, base_channels=4)
    discriminator = build_discriminator(model, ImageShape(1, 28, 28), 10)
    labels = torch.zeros(2, dtype=torch.int64)
    for _ in range(50):
        discriminator(torch.rand(2, 1, 28, 28), labels)
    layers = [
        m
        for name, m in discriminator.named_modules()
        # the auxiliary heads are not part of the logit
        if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding) and name not in ("classifier", "latent")
    ]
    assert len(layers) >= 4
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        assert largest == pytest.approx(1, abs=0.02), layer
    restored = build_discriminator(model, ImageShape(1, 28, 28), 10)
    restored.load_state_dict(discriminator.state_dict())
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(restored.eval()(images, labels), discriminator.eval()(images, labels))


def test_batch_norm_equals_pytorchs_except_for_the_batch_counter() -> None:
    norm, expected = BatchNorm1d(5, 0.8), nn.BatchNorm1d(5, 0.8)
    for _ in range(3):
        x = torch.randn(7, 5)
        assert torch.equal(norm(x), expected(x))
    expected.num_batches_tracked.zero_()  # type: ignore[union-attr]  # PyTorch types it as optional
    torch.testing.assert_close(norm.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert torch.equal(norm.eval()(x), expected.eval()(x))
