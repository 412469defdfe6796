"""Decoding of image files: transparency, bit depth, orientation, shape and palette."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.unit.training.decoded import decode


def save_and_decode(
    path: Path, image: Image.Image, *, fit: Literal["crop", "pad"] = "crop", **options: object
) -> np.ndarray:
    image.save(path, **options)  # type: ignore[arg-type]
    return decode(path, fit=fit)


def test_transparency_is_kept_and_colors_are_multiplied_by_it(tmp_path: Path) -> None:
    clear = save_and_decode(tmp_path / "a.png", Image.new("RGBA", (28, 28), (255, 255, 255, 0)))
    assert clear.max() == 0, "the color of a transparent pixel is not seen"
    half = save_and_decode(tmp_path / "b.png", Image.new("RGBA", (28, 28), (200, 100, 0, 128)))
    assert half[:, 0, 0].tolist() == [100, 50, 0, 128]
    opaque = save_and_decode(tmp_path / "c.png", Image.new("RGB", (28, 28), (200, 100, 0)))
    assert opaque[:, 0, 0].tolist() == [200, 100, 0, 255]


def test_each_form_of_transparency_is_kept(tmp_path: Path) -> None:
    gray = save_and_decode(tmp_path / "a.png", Image.new("LA", (28, 28), (200, 128)))
    assert gray[:, 0, 0].tolist() == [100, 100, 100, 128]
    palette = Image.new("RGB", (28, 28), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert save_and_decode(tmp_path / "b.png", palette, transparency=bytes([0] * 256)).max() == 0
    halves = Image.new("P", (28, 28), 1)
    halves.putpalette([0, 0, 250, 10, 200, 30])
    halves.paste(0, (0, 0, 14, 28))
    gif = save_and_decode(tmp_path / "c.gif", halves, transparency=0)
    assert (gif[:, 0, 0].tolist(), gif[:, 0, 27].tolist()) == ([0, 0, 0, 0], [10, 200, 30, 255])
    color = Image.new("RGB", (28, 28), (10, 200, 30))
    assert save_and_decode(tmp_path / "d.png", color, transparency=(10, 200, 30)).max() == 0


def test_hidden_colors_of_transparent_pixels_do_not_leak_into_the_edges(tmp_path: Path) -> None:
    pixels = np.zeros((56, 56, 4), np.uint8)
    pixels[:, :27] = (255, 0, 0, 255)
    pixels[:, 27:] = (0, 255, 255, 0)
    red, green, blue, alpha = save_and_decode(tmp_path / "edge.png", Image.fromarray(pixels))
    assert (red[0, 0], red[0, -1]) == (255, 0)
    assert max(green.max(), blue.max()) == 0
    assert (red <= alpha).all()


def test_no_color_exceeds_alpha_although_the_filter_overshoots_at_edges(tmp_path: Path) -> None:
    pixels = np.full((56, 56, 4), 128, np.uint8)
    pixels[:, :27, :3], pixels[:, 27:, :3] = 255, 0
    *colors, alpha = save_and_decode(tmp_path / "edge.png", Image.fromarray(pixels))
    assert set(alpha.flatten().tolist()) == {128}
    assert np.max(colors) == 128


def test_16_bit_values_are_scaled_not_clipped(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((28, 28), 32896, np.uint16))
    assert save_and_decode(tmp_path / "deep.png", image)[0, 0, 0] == 128


def test_an_image_is_rotated_by_its_exif_orientation(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28, 3), np.uint8)
    pixels[:14] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # it is upright after a rotation by 90° clockwise
    turned = save_and_decode(tmp_path / "turned.png", Image.fromarray(pixels), exif=exif)
    assert turned[0, :, 20].min() == 255
    assert turned[0, :, 5].max() == 0


@pytest.mark.parametrize("size", [(112, 56), (56, 112)])
def test_the_central_square_of_an_image_is_cropped_or_margins_are_added(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.zeros((56, 112, 3), np.uint8)
    pixels[:, 28:84] = 200
    wide = Image.fromarray(pixels)
    image = wide if size == wide.size else wide.transpose(Image.Transpose.ROTATE_90)
    assert save_and_decode(tmp_path / "a.png", image)[:3].min() == 200
    padded = save_and_decode(tmp_path / "a.png", Image.new("RGB", size, (200, 200, 200)), fit="pad")
    padded = padded if size == wide.size else padded.transpose(0, 2, 1)
    assert padded[:3, 9:19].min() == 200
    assert padded[3, 9:19].min() == 255
    assert max(padded[:, :5].max(), padded[:, -5:].max()) == 0, "black and transparent margins"


def test_a_transparent_image_is_padded_as_well(tmp_path: Path) -> None:
    padded = save_and_decode(tmp_path / "a.png", Image.new("RGBA", (56, 28), (200, 0, 0, 128)), fit="pad")
    assert padded[:, 14, 14].tolist() == [100, 0, 0, 128]
    assert padded[:, 2, 14].tolist() == [0, 0, 0, 0]


def test_an_image_much_higher_than_wide_is_read(tmp_path: Path) -> None:
    image = Image.new("RGB", (17, 900), (10, 20, 30))
    assert save_and_decode(tmp_path / "a.png", image)[:3, 14, 14].tolist() == [10, 20, 30]
    assert save_and_decode(tmp_path / "b.png", image, fit="pad")[:3, 14, 14].max() > 0
    dot = save_and_decode(tmp_path / "c.png", Image.new("RGB", (1, 1), (10, 20, 30)))
    assert dot.reshape(4, -1).max(1).tolist() == [10, 20, 30, 255]


@pytest.mark.parametrize(
    ("name", "mode"), [("a.jpg", "CMYK"), ("a.tiff", "CMYK"), ("a.jpg", "YCbCr"), ("a.tiff", "LAB"), ("a.png", "RGB")]
)
def test_red_stays_red_in_each_color_space(name: str, mode: str, tmp_path: Path) -> None:
    red = Image.new("RGB", (28, 28), (255, 0, 0))
    if mode == "LAB":
        profiles = [ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")]
        image = ImageCms.applyTransform(red, ImageCms.buildTransform(profiles[0], profiles[1], "RGB", "LAB"))
        assert image is not None
    else:
        image = red.convert(mode)
    pixels = save_and_decode(tmp_path / name, image)[:, 14, 14]
    assert pixels[0] > 245
    assert max(pixels[1:3]) < 12


def test_an_image_with_a_palette_has_its_colors(tmp_path: Path) -> None:
    image = Image.new("RGB", (28, 28), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert save_and_decode(tmp_path / "palette.gif", image)[:, 0, 0].tolist() == [10, 200, 30, 255]
