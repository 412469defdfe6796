"""Colors are premultiplied with alpha in training and made straight on the way out, and hidden colors never show."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ganctl.training.data.base import premultiply
from ganctl.training.data.decode import to_square
from ganctl.training.images.pictures import straight
from ganctl.training.models.base import to_bytes, to_float, unpremultiply
from tests.unit.training.folders import read, read_all
from tests.unit.training.formats import Drawn, flat, npz, premultiplied

# every color of every alpha, and every alpha of every color
VALUES, ALPHAS = (each.to(torch.uint8) for each in torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij"))


def image_of(color: Tensor, alpha: Tensor) -> Tensor:
    """Returns one image, uint8 [1, 4, H, W], with three equal colors."""
    return torch.stack([color, color, color, alpha])[None]


def all_premultiplied() -> Tensor:
    """Every pair of value ≤ alpha; the other pixels are 0."""
    valid = VALUES <= ALPHAS
    return image_of(VALUES * valid, ALPHAS * valid)


# --- arithmetic ---


def test_straight_colors_premultiplied_again_are_the_same_for_every_value_and_alpha() -> None:
    images = all_premultiplied()
    assert premultiply(to_bytes(to_float(images))).equal(images)
    pixels = images[0].permute(1, 2, 0).numpy()
    again = torch.from_numpy(straight(pixels)).permute(2, 0, 1)[None]
    assert premultiply(again).equal(images)


def test_both_ways_to_straight_colors_agree() -> None:
    images = all_premultiplied()
    shown = ALPHAS * (VALUES <= ALPHAS) > 0
    by_network = to_bytes(to_float(images))[0][:, shown].int()
    by_picture = torch.from_numpy(straight(images[0].permute(1, 2, 0).numpy())).permute(2, 0, 1)[:, shown].int()
    assert (by_network - by_picture).abs().max() <= 1, "ties may be rounded up or to even"
    assert by_network[3].equal(by_picture[3])


def test_every_straight_color_is_premultiplied_to_the_nearest_value() -> None:
    images = image_of(VALUES, ALPHAS)
    exact = VALUES.double() * ALPHAS.double() / 255
    assert premultiply(images)[0, 0].equal(exact.round().to(torch.uint8))
    assert premultiply(images)[0, 3].equal(ALPHAS)


def test_files_are_premultiplied_in_the_same_way() -> None:
    pixels = image_of(VALUES, ALPHAS)[0].permute(1, 2, 0).contiguous().numpy()
    assert torch.from_numpy(to_square(Image.fromarray(pixels), 256, "crop"))[None].equal(
        premultiply(image_of(VALUES, ALPHAS))
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_images_without_alpha_are_unchanged(channels: int) -> None:
    images = torch.randint(256, (2, channels, 16, 16), dtype=torch.uint8)
    assert premultiply(images).equal(images)
    assert to_bytes(to_float(images)).equal(images)
    assert straight(images[0].permute(1, 2, 0).numpy()).tolist() == images[0].permute(1, 2, 0).tolist()


def test_colors_of_a_generator_stay_in_range_even_if_they_exceed_alpha() -> None:
    images = torch.rand(8, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images[0] = -1
    images[1, :3], images[1, 3] = 1, -1
    shown = unpremultiply(images)
    assert shown.isfinite().all()
    assert shown.min() >= -1
    assert shown.max() <= 1
    assert shown[:, 3].allclose(images[:, 3], atol=1e-6)


def test_opaque_images_have_the_same_colors_with_and_without_alpha() -> None:
    colors = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    images = torch.cat([colors, torch.full((2, 1, 16, 16), 255, dtype=torch.uint8)], dim=1)
    assert premultiply(images).equal(images)
    assert to_bytes(to_float(images)).equal(images)


# --- files ---


def square_with_hidden_red(side: int = 40) -> np.ndarray:
    """Blue on the left; on the right, red of alpha 0."""
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[:, : side // 2] = (0, 0, 255, 255)
    pixels[:, side // 2 :] = (255, 0, 0, 0)
    return pixels


def saved(image: Image.Image, **options: object) -> Image.Image:
    """Returns an image as it is after saving it as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def palette_with_hidden_red() -> Image.Image:
    blue_red = Image.fromarray(np.repeat([[0] * 20 + [1] * 20], 40, axis=0).astype(np.uint8), "P")
    blue_red.putpalette([0, 0, 255, 255, 0, 0])
    return saved(blue_red, transparency=1)


def color_key_red() -> Image.Image:
    """An image whose red is transparent by the key of PNG, without an alpha channel."""
    return saved(Image.fromarray(square_with_hidden_red()[..., :3]), transparency=(255, 0, 0))


@pytest.mark.parametrize("side", [16, 28, 36, 64])
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize(
    "draw_image",
    [lambda: Image.fromarray(square_with_hidden_red()), palette_with_hidden_red, color_key_red],
    ids=["RGBA", "palette", "color key"],
)
def test_resizing_does_not_mix_hidden_colors_into_the_edges(draw_image: object, fit: str, side: int) -> None:
    image = draw_image()  # type: ignore[operator]
    red, green, blue, alpha = to_square(image, side, fit)  # type: ignore[arg-type]
    assert red.max() == 0
    assert green.max() == 0
    assert (blue == alpha).all(), "blue of any alpha, and nothing else"
    assert alpha[:, 0].min() == 255
    assert alpha[:, -1].max() == 0
    out = straight(np.stack([red, green, blue, alpha], axis=-1))
    assert out[alpha > 0][:, :3].tolist() == [[0, 0, 255]] * int((alpha > 0).sum())


def test_gray_with_alpha(tmp_path: Path) -> None:
    gray = np.zeros((20, 20, 2), np.uint8)
    gray[:10], gray[10:] = (200, 255), (90, 0)
    Image.fromarray(gray, "LA").save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        square = to_square(image, 20, "crop")
    assert square[:, :10].reshape(4, -1).T.tolist() == [[200, 200, 200, 255]] * 200
    assert square[:, 10:].max() == 0


def test_colors_never_exceed_alpha_after_resizing() -> None:
    """Bicubic filters overshoot at edges."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(50, 50, 4), dtype=np.uint8)
    pixels[rng.random((50, 50)) < 0.5, 3] = 0
    for side in (16, 32, 128):
        square = to_square(Image.fromarray(pixels), side, "crop")
        assert (square[:3] <= square[3]).all()


# --- data.fit ---


def wide(mode: str) -> np.ndarray:
    """40 × 20: red, green and blue in four columns of 10: red, green, green, blue."""
    colors = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]], np.uint8)
    return np.repeat(np.repeat(colors[None], 10, axis=1), 20, axis=0)[..., : len(mode)]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_crop_takes_the_central_square_and_pad_keeps_all(mode: str, turned: bool) -> None:
    pixels = wide(mode)
    image = Image.fromarray(pixels.transpose(1, 0, 2) if turned else pixels)
    back = (0, 2, 1) if turned else (0, 1, 2)
    cropped = to_square(image, 20, "crop").transpose(back)
    assert cropped.reshape(4, -1).T.tolist() == [[0, 255, 0, 255]] * 400
    padded = to_square(image, 40, "pad").transpose(back)
    assert padded[:3, 10:30].transpose(1, 2, 0).tolist() == wide("RGB").tolist()
    assert padded[3, 10:30].min() == 255
    assert padded[:, :10].max() == padded[:, 30:].max() == 0, "transparent, and black without alpha"


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 3), ("RGB", 4), ("RGBA", 4)])
def test_margins_of_a_data_set_are_transparent_if_it_has_alpha_else_black(
    mode: str, channels: int, tmp_path: Path
) -> None:
    drawn = Drawn(np.stack([np.roll(wide(mode), i, axis=1) for i in range(20)]), np.zeros(20, np.int64), ())
    images = read(flat(drawn, tmp_path / "set"), size="auto", fit="pad", channels=channels).images
    assert images.shape[1:] == (channels, 40, 40)
    assert images[:, :, :10].max() == images[:, :, 30:].max() == 0
    assert images[:, -1, 10:30].max() == 255


def test_an_odd_margin_is_one_pixel_larger_on_one_side() -> None:
    image = Image.fromarray(np.full((21, 16, 3), 255, np.uint8))
    square = to_square(image, 21, "pad")
    assert (square[0].max(axis=0) > 0).sum() == 16
    assert (square[0].max(axis=1) > 0).sum() == 21


# --- data.channels ---


def mixed(transparent: int, count: int = 40, mode: str = "RGB") -> Drawn:
    """Draws images of which so many have a transparent pixel."""
    pixels = np.random.default_rng(0).integers(256, size=(count, 20, 20, 4), dtype=np.uint8)
    if mode == "L":
        pixels[..., :3] = pixels[..., :1]
    pixels[..., 3] = 255
    pixels[:transparent, 0, 0, 3] = 254
    return Drawn(pixels, np.zeros(count, np.int64), ())


@pytest.mark.parametrize(("transparent", "channels"), [(0, 1), (1, 1), (2, 4)])
def test_gray_images_have_four_channels_if_five_percent_are_transparent(
    transparent: int, channels: int, tmp_path: Path
) -> None:
    path = npz("images", "labels")(mixed(transparent, mode="L"), tmp_path)
    assert read(path, size="auto").shape[0] == channels


@pytest.mark.parametrize("transparent", [0, 40])
def test_channels_may_be_forced(transparent: int, tmp_path: Path) -> None:
    drawn = mixed(transparent)
    path = flat(drawn, tmp_path / "set")
    expected = premultiplied(drawn.pixels)
    gray = [np.asarray(Image.fromarray(image[:3].transpose(1, 2, 0)).convert("L")) for image in expected]
    for channels, wanted in ((4, expected), (3, expected[:, :3]), (1, gray)):
        images = read_all(path, size="auto", channels=channels).images
        assert images.shape[1] == channels
        assert sorted(image.numpy().tobytes() for image in images) == sorted(image.tobytes() for image in wanted)


def test_gray_stays_gray_in_each_number_of_channels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(30, 20, 20), dtype=np.uint8)
    path = flat(Drawn(pixels, np.zeros(30, np.int64), ()), tmp_path / "set")
    for channels in (1, 3, 4):
        images = read(path, size="auto", channels=channels).images
        assert (images[:, :3] == images[:, :1]).all() or channels == 1
        assert channels < 4 or images[:, 3].min() == 255
