"""Augmentation: what it changes and how often; valid images stay valid; it is differentiable and, at p = 0, absent."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ganctl.training.augment.operations import RANDOM_NUMBERS, augment

CHANNELS = (1, 3, 4)
OPERATIONS = ("brightness", "saturation", "contrast", "translation", "cutout")
SIDE = 16


def images_of(channels: int, n: int = 8, side: int = SIDE) -> Tensor:
    """Returns random valid images in [−1, 1], float64; with 4 channels premultiplied, some pixels transparent."""
    rng = torch.Generator().manual_seed(1)
    units = torch.rand(n, channels, side, side, generator=rng, dtype=torch.float64)
    if channels == 4:
        alpha = (2 * units[:, 3:] - 0.5).clamp(0, 1)
        units = torch.cat([units[:, :3] * alpha, alpha], dim=1)
    return 2 * units - 1


def numbers_of(n: int = 8, *, only: str | None = None, seed: int = 2) -> Tensor:
    """Returns random numbers for n images; `only` names the one operation that a probability of 1/2 applies."""
    numbers = torch.rand(n, RANDOM_NUMBERS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if only is not None:
        numbers[:, : len(OPERATIONS)] = 0.9
        numbers[:, OPERATIONS.index(only)] = 0.1
    return numbers


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probability_0_changes_no_bit(channels: int, dtype: torch.dtype) -> None:
    images, numbers = images_of(channels).to(dtype), numbers_of().to(dtype)
    assert torch.equal(augment(images, numbers, 0.0), images)
    assert torch.equal(augment(images, numbers, torch.tensor(0.0)), images)


@pytest.mark.parametrize("channels", CHANNELS)
def test_the_gradient_is_that_of_the_function(channels: int) -> None:
    images = images_of(channels, n=3, side=8).requires_grad_()
    numbers = numbers_of(3)
    assert torch.autograd.gradcheck(lambda x: augment(x, numbers, 1.0), images, fast_mode=True)
    for operation in OPERATIONS:
        numbers = numbers_of(3, only=operation)
        assert torch.autograd.gradcheck(lambda x, numbers=numbers: augment(x, numbers, 0.5), images, fast_mode=True), (
            operation
        )


@pytest.mark.parametrize("probability", [0.2, 0.7])
def test_each_operation_changes_that_share_of_the_images(probability: float) -> None:
    n = 4000
    images = images_of(3, n, side=8)
    for operation in OPERATIONS:
        numbers = torch.rand(n, RANDOM_NUMBERS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        others = [i for i, name in enumerate(OPERATIONS) if name != operation]
        numbers[:, others] = 1.0
        changed = (augment(images, numbers, probability) != images).flatten(1).any(dim=1).double().mean()
        expected = probability * (8 / 9 if operation == "translation" else 1)  # one of nine moves is by 0 pixels
        assert changed.item() == pytest.approx(expected, abs=0.03), operation


def test_images_are_changed_independently() -> None:
    one = images_of(3, 1)
    changed = augment(one.expand(8, -1, -1, -1), numbers_of(), 1.0)
    assert len(changed.unique(dim=0)) == 8
    for i in range(8):
        alone = augment(one, numbers_of()[i : i + 1], 1.0)
        torch.testing.assert_close(alone[0], changed[i])


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_valid_image_stays_valid(channels: int) -> None:
    n = 500
    images = images_of(channels, n, side=8)
    images[0], images[1] = 1.0, -1.0
    changed = augment(images, numbers_of(n), 1.0)
    assert changed.min() >= -1 - 1e-9
    assert changed.max() <= 1 + 1e-9
    if channels == 4:
        assert (changed[:, :3] <= changed[:, 3:] + 1e-9).all(), "a premultiplied color is at most alpha"
        torch.testing.assert_close(changed[1], images[1])  # all is transparent


def straight(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns colors in 0 … 1 that are not multiplied with alpha, and alpha in 0 … 1, of images in [−1, 1]."""
    units = (images + 1) / 2
    alpha = units[:, 3:] if images.shape[1] == 4 else torch.ones_like(units[:, :1])
    return units[:, :3] / alpha.clamp(min=1e-12), alpha


def blend(colors: Tensor, target: Tensor | float, share: Tensor) -> Tensor:
    return colors + share.view(-1, 1, 1, 1) * (target - colors)


def mean_color(colors: Tensor, alpha: Tensor) -> Tensor:
    return (colors * alpha).mean(dim=(1, 2, 3), keepdim=True) / alpha.mean(dim=(1, 2, 3), keepdim=True)


@pytest.mark.parametrize("channels", CHANNELS)
def test_colors_change_as_those_of_images_that_are_not_premultiplied(channels: int) -> None:
    images, numbers = images_of(channels), numbers_of()
    colors, alpha = straight(images)
    brightness, saturation, contrast = (numbers[:, len(OPERATIONS) + i] for i in range(3))
    white = (brightness > 0.5).double().view(-1, 1, 1, 1)
    brighter = blend(colors, white, (brightness - 0.5).abs())
    expected = {
        "brightness": brighter,
        "saturation": blend(colors, colors.mean(dim=1, keepdim=True), saturation),
        "contrast": blend(colors, mean_color(colors, alpha), contrast / 2),
    }
    for operation, wanted in expected.items():
        changed, same_alpha = straight(augment(images, numbers_of(only=operation), 0.5))
        torch.testing.assert_close(changed * alpha, wanted * alpha, msg=operation)
        torch.testing.assert_close(same_alpha, alpha)
    grayer = blend(brighter, brighter.mean(dim=1, keepdim=True), saturation)
    flatter = blend(grayer, mean_color(grayer, alpha), contrast / 2)
    numbers[:, :3], numbers[:, 3:5] = 0.1, 0.9
    changed, _ = straight(augment(images, numbers, 0.5))
    torch.testing.assert_close(changed * alpha, flatter * alpha, msg="all three in this order")


@pytest.mark.parametrize("channels", CHANNELS)
def test_translation_moves_by_whole_pixels_up_to_an_eighth_of_the_side(channels: int) -> None:
    n, margin = 400, SIDE // 8
    images = images_of(channels, n)
    moved = augment(images, numbers_of(n, only="translation"), 0.5)
    framed = torch.nn.functional.pad(images, (margin,) * 4, value=-1)
    shifts = range(-margin, margin + 1)
    found = torch.zeros(n, dtype=torch.int64)
    for down in shifts:
        for right in shifts:
            top, left = margin - down, margin - right
            candidate = framed[:, :, top : top + SIDE, left : left + SIDE]
            found += (moved == candidate).flatten(1).all(dim=1) * (1 + (down + margin) * len(shifts) + right + margin)
    counts = found.bincount(minlength=26)
    assert counts[0] == 0
    assert len(counts) == 26, "each image is at exactly one place"
    assert (counts[1:] > 3).all(), "each of the 25 places occurs"


def test_cutout_blanks_a_square_of_half_the_side_around_a_pixel_of_the_image() -> None:
    n = 400
    images = images_of(4, n)
    cut = augment(images, numbers_of(n, only="cutout"), 0.5)
    changed = (cut != images).any(dim=1)
    assert (cut == -1)[changed[:, None].expand_as(cut)].all(), "black, and transparent"
    rows, columns = changed.any(dim=2), changed.any(dim=1)
    for sides in (rows, columns):
        lengths = sides.sum(dim=1)
        assert lengths.max() == SIDE // 2
        assert lengths.min() >= SIDE // 4 - 1  # a transparent pixel in the square does not change
        assert sides.any(dim=0).all(), "every part of the image is cut in some image"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_of_images_does_not_matter(memory_format: torch.memory_format) -> None:
    images, numbers = images_of(3), numbers_of()
    laid_out = images.contiguous(memory_format=memory_format)
    assert torch.equal(augment(laid_out, numbers, 1.0), augment(images, numbers, 1.0))


@pytest.mark.parametrize("shape", [(16, 28), (28, 16), (20, 20)])
def test_images_need_not_be_square(shape: tuple[int, int]) -> None:
    images = torch.rand(4, 3, *shape, dtype=torch.float64, requires_grad=True)
    changed = augment(images, numbers_of(4), 1.0)
    assert changed.shape == images.shape
    changed.sum().backward()
    assert images.grad is not None
    assert images.grad.any()


@pytest.mark.gpu
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_gpu_computes_the_same_deterministically_and_without_waiting(channels: int) -> None:
    images, numbers = images_of(channels, 64).float(), numbers_of(64).float()
    expected = augment(images, numbers, 0.5)

    def gradient(upstream: Callable[[Tensor], Tensor]) -> Tensor:
        inputs = images.cuda().requires_grad_()
        output = augment(inputs, numbers.cuda(), torch.tensor(0.5, device="cuda"))
        torch.testing.assert_close(output.cpu(), expected)
        (grad,) = torch.autograd.grad(output, inputs, upstream(output))
        return grad

    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(gradient(torch.ones_like), gradient(torch.ones_like))
    finally:
        torch.use_deterministic_algorithms(False)
    on_device = images.cuda(), numbers.cuda(), torch.tensor(0.5, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(*on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
