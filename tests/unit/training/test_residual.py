"""The residual generator: its shapes, its inputs, its memory layout, and its images of a batch."""

import pytest
import torch
from torch import Tensor

from ganctl.training.config.schema import ModelSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.base import Generator, ImageShape
from ganctl.training.models.build import build_generator
from ganctl.training.models.residual import ConditionalBatchNorm, ResidualBlock

LABELS = pytest.mark.parametrize("conditional", [True, False], ids=["labels", "no labels"])
SIZES = (16, 28, 36, 64, 100, 128)


def build(shape: ImageShape, *, conditional: bool = True, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    model = ModelSettings(generator="residual", latent_dim=16, base_channels=4, conditional=conditional)
    return build_generator(model, shape, 3)


def inputs(generator: Generator, n: int = 4) -> tuple[Tensor, ...]:
    """Latents, and labels for a conditional generator."""
    z = torch.randn(n, generator.latent_dim, generator=torch.Generator().manual_seed(1))
    return (z, torch.arange(n) % 3) if generator.conditional else (z,)


@LABELS
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_images_of_every_size_and_number_of_channels_are_in_range(size: int, channels: int, conditional: bool) -> None:
    generator = build(ImageShape(channels, size, size), conditional=conditional)
    images = generator(*inputs(generator))
    assert images.shape == (4, channels, size, size)
    assert images.abs().max() <= 1
    assert images.std() > 0.01
    assert generator.conditional == conditional


def test_images_need_not_be_square_but_have_even_sides() -> None:
    for height, width in ((32, 48), (30, 28), (28, 30)):
        generator = build(ImageShape(3, height, width))
        assert generator(*inputs(generator)).shape == (4, 3, height, width)
    for height, width in ((33, 32), (32, 33)):
        with pytest.raises(ConfigError, match=rf"model\.generator = 'residual': .*\b{height} × {width}\b.*\beven\b"):
            build(ImageShape(3, height, width))


def test_the_first_activations_have_at_most_7_positions_a_side_where_the_size_allows_it() -> None:
    starts = {}
    for size in SIZES:
        generator, seen = build(ImageShape(1, size, size)), list[int]()
        generator.get_submodule("start").register_forward_hook(lambda _, __, x, seen=seen: seen.append(x.shape[3]))
        generator(*inputs(generator))
        (starts[size],) = seen
    # 36 / 2 = 18 and 100 / 2 = 50 can be halved once
    assert starts == {16: 4, 28: 7, 36: 9, 64: 4, 100: 25, 128: 4}


@LABELS
@pytest.mark.parametrize("size", [28, 64])
def test_latent_and_label_scale_and_shift_the_channels_of_every_block(size: int, conditional: bool) -> None:
    """Each normalization gets the vector of the latent and the label by itself, not through the block before it."""
    generator = build(ImageShape(3, size, size), conditional=conditional)
    norms = [module for module in generator.modules() if isinstance(module, ConditionalBatchNorm)]
    blocks = [module for module in generator.modules() if isinstance(module, ResidualBlock)]
    assert len(norms) == 2 * len(blocks) + 1 == {28: 3, 64: 7}[size]
    styles: list[Tensor] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda _, args: styles.append(args[1]))
    z, *labels = inputs(generator)
    sources: list[Tensor] = [z.requires_grad_()]
    if conditional:
        generator.get_submodule("embedding").register_forward_hook(lambda _, __, output: sources.append(output))
    generator(z, *labels)
    assert len(styles) == len(norms)
    for norm, style in zip(norms, styles, strict=True):
        scale_and_shift = norm.scale_and_shift(style)
        for gradient in torch.autograd.grad(scale_and_shift.square().sum(), sources, retain_graph=True):
            assert (gradient.norm(dim=1) > 0).all()


def test_the_images_depend_on_latent_and_label() -> None:
    generator = build(ImageShape(3, 32, 32)).eval()
    z, _ = inputs(generator)
    zero, one = (generator(z, torch.full((4,), label)) for label in (0, 1))
    assert (zero - one).flatten(1).abs().amax(dim=1).min() > 1e-3
    assert (zero - zero.roll(1, dims=0)).flatten(1).abs().amax(dim=1).min() > 1e-3


@LABELS
def test_weights_activations_and_images_are_channels_last_in_memory(conditional: bool) -> None:
    generator = build(ImageShape(3, 32, 32), conditional=conditional)
    outputs: dict[str, Tensor] = {}
    for name, module in generator.named_modules():
        if isinstance(module, torch.nn.Conv2d | ResidualBlock | ConditionalBatchNorm) or name == "start":
            module.register_forward_hook(lambda _, __, output, name=name: outputs.setdefault(name, output))
    images = generator(*inputs(generator))
    assert len(outputs) > 10
    for name, output in (outputs | {"images": images}).items():
        assert output.is_contiguous(memory_format=torch.channels_last), name
    for name, weight in generator.named_parameters():
        assert weight.dim() != 4 or weight.is_contiguous(memory_format=torch.channels_last), name


@LABELS
def test_in_evaluation_an_image_does_not_depend_on_the_other_images_of_a_batch(conditional: bool) -> None:
    generator = build(ImageShape(3, 32, 32), conditional=conditional)
    batch = inputs(generator, 12)
    for _ in range(3):
        generator(*batch)  # the running statistics are not those of a new network
    generator.eval()
    together = generator(*batch)
    for i in (0, 5, 11):
        alone = generator(*(tensor[i : i + 1] for tensor in batch))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)
    others = tuple(tensor.flip(0) for tensor in batch)
    torch.testing.assert_close(generator(*others), together.flip(0), rtol=0, atol=1e-5)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    generator(*batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


def test_in_training_the_statistics_are_those_of_the_batch() -> None:
    generator = build(ImageShape(3, 32, 32))
    normalized: list[Tensor] = []
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda _, __, output: normalized.append(output))
    generator(*inputs(generator, 64))
    assert len(normalized) == 5
    for x in normalized:
        torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(x.shape[1]), rtol=0, atol=1e-4)
        torch.testing.assert_close(x.var(dim=(0, 2, 3), correction=0), torch.ones(x.shape[1]), rtol=0, atol=0.1)


def test_the_channels_double_towards_the_start_up_to_four_times_base_channels() -> None:
    generator = build(ImageShape(3, 128, 128))
    blocks = [module for module in generator.modules() if isinstance(module, ResidualBlock)]
    channels = [(block.shortcut.in_channels, block.shortcut.out_channels) for block in blocks]
    assert channels == [(16, 16), (16, 16), (16, 8), (8, 4)]


def test_neighboring_pixels_cannot_alternate() -> None:
    """Before tanh, the images have no power at the highest frequency in either direction, whatever the weights."""
    generator = build(ImageShape(3, 32, 32))
    torch.nn.init.normal_(generator.get_parameter("output.weight"), generator=torch.Generator().manual_seed(2))
    values = generator(*inputs(generator)).double().atanh()
    power = torch.fft.fft2(values[..., 2:-2, 2:-2]).abs().square().mean(dim=(0, 1))
    middle = 14  # of 28 positions
    assert power.mean() > 1e3
    assert power[middle, middle] < 1e-3 * power.mean()
