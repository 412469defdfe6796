"""The pretrained network of a projected discriminator: its weights, and how images become feature maps."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.schema import ModelSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator
from ganctl.training.models.projected import ProjectedDiscriminator, feature_maps, split_maps
from ganctl.training.pretrained import FEATURES_FILE, PROJECTION_FILE
from ganctl.training.pretrained.projection import load_projection
from ganctl.training.pretrained.weights import DIGEST_KEY, read_tensors

CPU = torch.device("cpu")


def random_images(n: int, channels: int, height: int, width: int | None = None) -> Tensor:
    """Smooth random images in [−1, 1]."""
    noise = torch.randn(n, channels, 6, 6, generator=torch.Generator().manual_seed(height))
    size = (height, width or height)
    return torch.nn.functional.interpolate(noise, size=size, mode="bilinear", align_corners=False).tanh()


def project(images: Tensor) -> Tensor:
    features: Tensor = load_projection(CPU, torch.float32)(images)
    return features


def project_in_order(images: Tensor) -> Tensor:
    """Features of each image alone: the first image of a batch is not shifted."""
    return torch.cat([project(image) for image in images.split(1)])


def pretrained_maps(images: Tensor) -> list[Tensor]:
    """The maps of the pretrained network, without the pixels, of each image alone."""
    return split_maps(project_in_order(images), feature_maps(ImageShape(*images.shape[1:])))[1:]


def test_the_packaged_weights_have_the_digest_of_their_metadata() -> None:
    weights, metadata = read_tensors(PROJECTION_FILE)
    assert metadata[DIGEST_KEY] == weights_digest(weights)
    assert metadata["license"] == "Apache-2.0"
    assert PROJECTION_FILE.stat().st_size < 1_000_000
    loaded = load_projection(CPU, torch.float32).state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weight.float()) for name, weight in weights.items())


def test_damaged_weights_are_an_error(tmp_path: Path) -> None:
    content = bytearray(PROJECTION_FILE.read_bytes())
    content[-1] ^= 1
    damaged = tmp_path / "projection.safetensors"
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        read_tensors(damaged)


def test_no_tensor_is_one_of_the_network_that_scores() -> None:
    """A generator is not trained against the network that scores it."""
    ours, scores = (read_tensors(file)[0].values() for file in (PROJECTION_FILE, FEATURES_FILE))
    compared = 0
    for a in ours:
        for b in scores:
            if a.shape == b.shape:
                compared += 1
                assert not torch.equal(a, b)
    assert compared > 20


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (28, 28), (36, 36), (30, 64), (64, 64), (100, 100), (128, 128)], ids=str)
def test_images_of_every_size_have_finite_features_of_the_documented_shapes(
    size: tuple[int, int], channels: int
) -> None:
    shape = ImageShape(channels, *size)
    maps = feature_maps(shape)
    features = project(random_images(2, *shape))
    assert features.shape == (2, sum(map_.size for map_ in maps))
    assert features.isfinite().all()
    for map_, expected in zip(split_maps(features, maps), maps, strict=True):
        assert map_.shape == (2, *expected)
        assert map_[:1].is_contiguous(memory_format=torch.channels_last)


def test_the_maps_have_strides_of_4_8_and_16_pixels_and_small_images_are_enlarged_to_48() -> None:
    pixels, *maps = feature_maps(ImageShape(4, 64, 100))
    assert pixels == ImageShape(16, 32, 50), "blocks of 2 × 2 pixels as channels"
    assert maps == [ImageShape(24, 16, 25), ImageShape(40, 8, 13), ImageShape(80, 4, 7)]
    assert feature_maps(ImageShape(1, 28, 28))[1:] == feature_maps(ImageShape(3, 48, 48))[1:]
    images = random_images(2, 3, 28)
    enlarged = torch.nn.functional.interpolate(images, size=(48, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pretrained_maps(images), pretrained_maps(enlarged))


def test_the_first_map_holds_the_pixels_with_alpha() -> None:
    images = random_images(3, 4, 32)
    pixels = split_maps(project(images), feature_maps(ImageShape(4, 32, 32)))[0]
    assert torch.equal(torch.nn.functional.pixel_shuffle(pixels, 2), images)


def test_four_equal_images_are_seen_at_four_positions() -> None:
    """The gradient of a convolution with stride 2 differs between odd and even pixels, which leaves a checkerboard."""
    image = random_images(1, 3, 64)
    padded = torch.nn.functional.pad(image, (1, 0, 1, 0), mode="replicate")
    moved = [padded[:, :, top : top + 64, left : left + 64] for top in (1, 0) for left in (1, 0)]
    maps = feature_maps(ImageShape(3, 64, 64))
    for actual, expected in zip(
        split_maps(project(image.expand(4, -1, -1, -1)), maps)[1:],
        split_maps(project_in_order(torch.cat(moved)), maps)[1:],
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


def test_split_maps_returns_the_outputs_of_the_networks_stages_scaled_to_about_1() -> None:
    network, images = load_projection(CPU, torch.float32), random_images(4, 3, 64)
    outputs = network.activations(images, after=network.stage_ends[1:])
    maps = pretrained_maps(images)
    for map_, output in zip(maps, outputs, strict=True):
        scale = (map_ * output).sum() / output.square().sum()
        torch.testing.assert_close(map_, output * scale, rtol=1e-4, atol=1e-5)
        assert 0.3 < map_.std(dim=(0, 2, 3)).median() < 3


def test_features_are_differentiable_in_the_images_and_the_weights_are_constants() -> None:
    for channels in (1, 3, 4):
        images = random_images(2, channels, 32).requires_grad_()
        (gradient,) = torch.autograd.grad(project(images).square().sum(), images)
        assert gradient.isfinite().all()
        assert (gradient[:, :3].abs().amax(dim=(2, 3)) > 0).all(), "every image and every color"
        assert channels < 4 or gradient[1, 3].abs().max() > 0, "alpha of the image on white"
    network = load_projection(CPU, torch.float32)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_gradient_is_that_of_finite_differences() -> None:
    network = copy.deepcopy(load_projection(CPU, torch.float32)).double()
    images, direction = random_images(2, 4, 30, 32).double(), random_images(2, 4, 32).double()[:, :, :30]
    weights = torch.randn(network(images).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        result: Tensor = (network(x) * weights).sum()
        return result

    (gradient,) = torch.autograd.grad(value(images.requires_grad_()), images)
    with torch.no_grad():
        step = 1e-7  # small enough for no kink of an activation
        difference = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-4)


def test_gray_images_have_the_features_of_the_same_images_in_colors() -> None:
    images = random_images(3, 1, 32)
    torch.testing.assert_close(pretrained_maps(images), pretrained_maps(images.expand(-1, 3, -1, -1)))


def test_the_network_sees_premultiplied_colors_on_white() -> None:
    rng = torch.Generator().manual_seed(0)
    alpha, color = torch.rand(2, 1, 48, 48, generator=rng), torch.rand(2, 3, 48, 48, generator=rng)
    seen = alpha * color + (1 - alpha)
    transparent = torch.cat([alpha * color, alpha], dim=1)
    torch.testing.assert_close(pretrained_maps(transparent * 2 - 1), pretrained_maps(seen * 2 - 1))


@pytest.mark.parametrize("color", [0.0, 1.0], ids=["black", "white"])
def test_a_change_of_alpha_is_visible_for_black_and_for_white_images(color: float) -> None:
    alpha = torch.zeros(2, 1, 32, 32)
    alpha[0, :, 8:24, 8:24] = 1
    alpha[1, :, 4:28, 8:24] = 1
    before, after = project_in_order(torch.cat([alpha * color] * 3 + [alpha], dim=1) * 2 - 1)
    assert (before - after).square().mean().sqrt() > 0.1


def test_the_features_of_an_image_do_not_depend_on_the_images_beside_it() -> None:
    images = random_images(6, 3, 32)
    others = images.flip(3).clone()
    others[[0, 5]] = images[[0, 5]]
    torch.testing.assert_close(project(images)[[0, 5]], project(others)[[0, 5]], rtol=1e-3, atol=1e-3)


def test_loading_and_projecting_use_no_random_numbers() -> None:
    before = torch.get_rng_state()
    load_projection.__wrapped__(CPU, torch.float32)(random_images(2, 3, 32))
    assert torch.equal(torch.get_rng_state(), before)
    assert load_projection(CPU, torch.float32) is load_projection(CPU, torch.float32)


def discriminator(shape: ImageShape, **settings: object) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    model = ModelSettings.model_validate({"discriminator": "projected", "base_channels": 4, **settings})
    network = build_discriminator(model, shape, 3)
    assert isinstance(network, ProjectedDiscriminator)
    return network


@pytest.mark.parametrize("conditional", [True, False], ids=["labels", "no labels"])
@pytest.mark.parametrize("size", [16, 28, 36, 64, 100, 128])
def test_the_discriminator_returns_one_logit_for_each_image_from_all_maps(size: int, conditional: bool) -> None:
    shape = ImageShape(3, size, size)
    network = discriminator(shape, conditional=conditional, spectral_norm=True)
    features = project(random_images(4, *shape)).requires_grad_()
    labels = (torch.arange(4) % 3,) if conditional else ()
    logits = network(features, *labels)
    assert logits.shape == (4,)
    (gradient,) = torch.autograd.grad(logits.sum(), features)
    for map_ in split_maps(gradient, feature_maps(shape)):
        assert (map_.abs().amax(dim=(1, 2, 3)) > 0).all()
    if conditional:
        other = network(features, (torch.arange(4) + 1) % 3)
        assert (logits - other).abs().min() > 1e-5


def test_the_pretrained_weights_are_no_part_of_the_discriminator() -> None:
    network = discriminator(ImageShape(3, 32, 32))
    pretrained = {tensor.data_ptr() for tensor in load_projection(CPU, torch.float32).state_dict().values()}
    assert not pretrained & {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not any(module is load_projection(CPU, torch.float32) for module in network.modules())


def test_a_label_embedding_beside_the_pixels_is_refused() -> None:
    for settings in ({"conditioning": "auto"}, {"conditioning": "projection"}):
        assert discriminator(ImageShape(3, 32, 32), **settings).projection is not None
    assert discriminator(ImageShape(3, 32, 32), conditioning="embedding", conditional=False).projection is None
    with pytest.raises(ConfigError, match=r"model\.conditioning = 'embedding': .*'projected'.*'projection' or 'auto'"):
        discriminator(ImageShape(3, 32, 32), conditioning="embedding")
