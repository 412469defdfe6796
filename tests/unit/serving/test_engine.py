"""An image's bytes depend on its latents and label, never on what else is drawn with it."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ganctl.common.latents import draw_labels, latents
from ganctl.common.pixels import to_uint8
from ganctl.serving.handler.engine import CHUNKS, Engine, Floats, Labels
from ganctl.serving.handler.model import Model
from ganctl.serving.handler.service import Service

MODEL = Model("abc", 4, tuple("0123456789"), 1, 2, 2)


class Fake:
    """A back-end whose output is its label, in tenths, disturbed as a test wants; keeps the shapes it was asked for."""

    def __init__(
        self, disturbance: Callable[[int], Floats | float] = lambda n: 0.0, shape: tuple[int, ...] = (1, 2, 2)
    ):
        self.disturbance = disturbance
        self.shape = shape
        self.asked: list[int] = []

    def run(self, z: Floats, label: Labels | None) -> Floats:
        assert label is not None
        self.asked.append(len(z))
        images = np.ones((len(z), *self.shape), np.float32) * (label / 10).reshape(-1, 1, 1, 1).astype(np.float32)
        return (images + self.disturbance(len(z))).astype(np.float32)


def drawn(engine: Engine, count: int) -> NDArray[np.uint8]:
    return engine.generate(latents(1, count, 4), np.arange(count, dtype=np.int64) % 10)


@pytest.mark.parametrize("backend", ["onnx", "torchscript"])
@pytest.mark.parametrize(("conditional", "channels"), [(True, 1), (False, 1), (True, 3)])
def test_every_image_is_the_same_alone_and_at_every_place_of_every_batch(
    load: Callable[..., Service], backend: str, conditional: bool, channels: int
) -> None:
    engine = load(backend, conditional, channels).engine
    z, label = latents(5, 70, 16), draw_labels(5, 70, 10)
    alone = np.concatenate(
        [engine.generate(z[i : i + 1], label[i : i + 1] if conditional else None) for i in range(len(z))]
    )
    assert alone.shape == (70, 28, 28, channels)
    assert alone.dtype == np.uint8
    random = np.random.default_rng(0)
    for count in (2, 3, 5, 7, 8, 13, 31, 32, 33, 64, 70):
        rows = random.permutation(70)[:count]
        batch = engine.generate(z[rows], label[rows] if conditional else None)
        assert np.array_equal(batch, alone[rows]), count


@pytest.mark.parametrize(("conditional", "channels"), [(True, 1), (False, 1), (True, 3)])
def test_the_back_ends_agree_within_one_grey_level(
    load: Callable[..., Service], conditional: bool, channels: int
) -> None:
    z, label = latents(6, 50, 16), draw_labels(6, 50, 10) if conditional else None
    one, other = (
        load(backend, conditional, channels).engine.generate(z, label).astype(int)
        for backend in ("onnx", "torchscript")
    )
    assert np.abs(one - other).max() <= 1


def test_a_size_that_rounds_differently_is_not_used() -> None:
    fake = Fake(lambda n: 1e-7 if n < 4 else 0.0)
    engine = Engine(fake, MODEL)
    assert engine.sizes == CHUNKS[3:]
    fake.asked.clear()
    assert drawn(engine, 33).shape == (33, 2, 2, 1)
    assert fake.asked == [32, 4]  # the last chunk holds one image, filled up to four


def test_rows_that_differ_by_their_place_are_drawn_one_by_one() -> None:
    fake = Fake(lambda n: np.arange(n, dtype=np.float32).reshape(-1, 1, 1, 1) * 1e-6)
    assert Engine(fake, MODEL).sizes == (1,)


def test_all_sizes_are_used_where_all_are_equal() -> None:
    fake = Fake()
    engine = Engine(fake, MODEL)
    assert engine.sizes == CHUNKS
    fake.asked.clear()
    assert drawn(engine, 10)[:, 0, 0, 0].tolist() == [round(255 * i / 10 + 1e-6) for i in range(10)]
    assert fake.asked == [10], "in one go"


@pytest.mark.parametrize(
    ("fake", "told"),
    [(Fake(shape=(1, 3, 2)), "expected float32"), (Fake(lambda n: float("nan")), "expected finite")],
)
def test_a_model_that_is_not_what_its_manifest_says_is_not_loaded(fake: Fake, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Engine(fake, MODEL)


def test_floats_become_the_nearest_of_256_levels() -> None:
    levels = (np.arange(256) / 255).astype(np.float32)
    assert to_uint8(levels).tolist() == list(range(256))
    assert to_uint8(np.array([-1.0, 2.0, 0.4999 / 255, 0.5001 / 255], np.float32)).tolist() == [0, 255, 0, 1]
