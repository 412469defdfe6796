"""Decoding of image files: transparency, bit depth, orientation, shape and palette."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.unit.training.decoded import decode


def save_and_decode(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)  # type: ignore[arg-type]
    return decode(path, 28, gray=False)


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    assert save_and_decode(tmp_path / "a.png", Image.new("RGBA", (28, 28), (255, 255, 255, 0))).max() == 0
    half = save_and_decode(tmp_path / "b.png", Image.new("RGBA", (28, 28), (200, 100, 0, 128)))
    assert half[:, 0, 0].tolist() == [100, 50, 0]


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


def test_a_wide_image_is_cropped_to_its_middle_square(tmp_path: Path) -> None:
    pixels = np.zeros((56, 112, 3), np.uint8)
    pixels[:, 28:84] = 200
    assert save_and_decode(tmp_path / "wide.png", Image.fromarray(pixels)).min() == 200


def test_an_image_with_a_palette_has_its_colors(tmp_path: Path) -> None:
    image = Image.new("RGB", (28, 28), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert save_and_decode(tmp_path / "palette.gif", image)[:, 0, 0].tolist() == [10, 200, 30]
