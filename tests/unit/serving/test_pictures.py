"""Images are tiled, enlarged and encoded as PNG files that other decoders read."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from ganctl.common.pixels import enlarge, tile
from ganctl.serving.handler import png

shapes = st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]))


@settings(max_examples=60, deadline=None)
@given(image=hnp.arrays(np.uint8, shapes))
def test_pillow_decodes_the_pixels_that_were_encoded(image: NDArray[np.uint8]) -> None:
    file = io.BytesIO(png.encode(image))
    Image.open(file).verify()  # chunks and checksums
    with Image.open(file) as read:
        assert read.mode == ("L" if image.shape[2] == 1 else "RGB")
        assert np.array_equal(np.asarray(read).reshape(image.shape), image)


def test_pillow_decodes_a_large_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (600, 500, 3), np.uint8)
    with Image.open(io.BytesIO(png.encode(image))) as read:
        assert np.array_equal(np.asarray(read), image)


def test_a_strided_view_of_an_array_is_encoded_like_a_copy() -> None:
    whole = np.arange(20 * 20, dtype=np.uint16).astype(np.uint8).reshape(20, 20, 1)
    with Image.open(io.BytesIO(png.encode(whole[::2, 1::3]))) as read:
        assert np.array_equal(np.asarray(read), whole[::2, 1::3, 0])


def test_images_are_tiled_row_by_row_and_unused_cells_are_black() -> None:
    images = np.stack([np.full((2, 3, 1), value, np.uint8) for value in (10, 20, 30)])
    picture = tile(images, 2)
    assert picture.shape == (4, 6, 1)
    assert picture[:, :, 0].tolist() == [[10] * 3 + [20] * 3] * 2 + [[30] * 3 + [0] * 3] * 2


@pytest.mark.parametrize("scale", [1, 2, 16])
def test_enlarging_repeats_every_pixel(scale: int) -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarge(image, scale)
    assert large.shape == (2 * scale, 2 * scale, 3)
    assert np.array_equal(large[::scale, ::scale], image)
    assert np.array_equal(large, np.kron(image, np.ones((scale, scale, 1), np.uint8)))
