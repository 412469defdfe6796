"""An image's bytes depend only on its latents and label, not on the other images of its batch."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ganctl.common.latents import draw_labels, latents
from ganctl.common.pixels import to_uint8
from ganctl.serving.handler.engine import CHUNKS, Engine, Floats, Inputs
from ganctl.serving.handler.model import Model
from ganctl.serving.handler.service import Service

MODEL = Model("abc", 4, tuple("0123456789"), 1, 2, 2)


class Fake:
    """A back-end whose pixels are label / 10 plus an error that depends on the batch size; records the batch sizes."""

    def __init__(self, error: Callable[[int], Floats | float] = lambda n: 0.0, shape: tuple[int, ...] = (1, 2, 2)):
        self.error = error
        self.shape = shape
        self.sizes: list[int] = []

    def __call__(self, inputs: Inputs) -> Floats:
        count, label = len(inputs["z"]), inputs["label"]
        self.sizes.append(count)
        images = np.ones((count, *self.shape), np.float32) * (label / 10).reshape(-1, 1, 1, 1).astype(np.float32)
        return (images + self.error(count)).astype(np.float32)


def generate(engine: Engine, count: int) -> NDArray[np.uint8]:
    return engine.generate({"z": latents(1, count, 4), "label": np.arange(count, dtype=np.int64) % 10})


def inputs_of(seed: int, count: int, conditional: bool) -> Inputs:
    label = {"label": draw_labels(seed, count, 10)} if conditional else {}
    return {"z": latents(seed, count, 16), **label}


def rows_of(inputs: Inputs, rows: NDArray[np.int64]) -> Inputs:
    return {name: values[rows] for name, values in inputs.items()}


@pytest.mark.parametrize("backend", ["onnx", "torchscript"])
@pytest.mark.parametrize(("conditional", "channels"), [(True, 1), (False, 1), (True, 3)])
def test_an_image_is_the_same_alone_and_at_every_position_of_every_batch(
    load: Callable[..., Service], backend: str, conditional: bool, channels: int
) -> None:
    engine = load(backend, conditional, channels).engine
    inputs = inputs_of(5, 70, conditional)
    alone = np.concatenate([engine.generate(rows_of(inputs, np.array([i]))) for i in range(70)])
    assert alone.shape == (70, 28, 28, channels)
    assert alone.dtype == np.uint8
    random = np.random.default_rng(0)
    for count in (2, 3, 5, 7, 8, 13, 31, 32, 33, 64, 70):
        rows = random.permutation(70)[:count]
        batch = engine.generate(rows_of(inputs, rows))
        assert np.array_equal(batch, alone[rows]), count


@pytest.mark.parametrize(("conditional", "channels"), [(True, 1), (False, 1), (True, 3)])
def test_the_back_ends_agree_within_one_gray_level(
    load: Callable[..., Service], conditional: bool, channels: int
) -> None:
    inputs = inputs_of(6, 50, conditional)
    onnx, torchscript = (
        load(backend, conditional, channels).engine.generate(inputs).astype(int) for backend in ("onnx", "torchscript")
    )
    assert np.abs(onnx - torchscript).max() <= 1


def test_chunk_sizes_with_other_rounding_are_not_used() -> None:
    fake = Fake(lambda n: 1e-7 if n < 4 else 0.0)
    engine = Engine(fake, MODEL)
    assert engine.sizes == CHUNKS[3:]
    fake.sizes.clear()
    assert generate(engine, 33).shape == (33, 2, 2, 1)
    assert fake.sizes == [32, 4]  # the last chunk holds one image and is padded to four


def test_a_model_whose_rounding_depends_on_the_row_gets_one_image_at_a_time() -> None:
    fake = Fake(lambda n: np.arange(n, dtype=np.float32).reshape(-1, 1, 1, 1) * 1e-6)
    assert Engine(fake, MODEL).sizes == (1,)


def test_all_chunk_sizes_are_used_if_they_round_equally() -> None:
    fake = Fake()
    engine = Engine(fake, MODEL)
    assert engine.sizes == CHUNKS
    fake.sizes.clear()
    assert generate(engine, 10)[:, 0, 0, 0].tolist() == [round(255 * i / 10 + 1e-6) for i in range(10)]
    assert fake.sizes == [10]


@pytest.mark.parametrize(
    ("fake", "expected"),
    [
        (Fake(shape=(1, 3, 2)), r"1, 3, 2\).*1, 2, 2\)"),
        (Fake(lambda n: float("nan")), "NaN"),
    ],
)
def test_a_model_with_unexpected_output_is_not_loaded(fake: Fake, expected: str) -> None:
    with pytest.raises(ValueError, match=f"model output: .*{expected}"):
        Engine(fake, MODEL)


def test_floats_are_rounded_to_the_nearest_of_256_levels() -> None:
    levels = (np.arange(256) / 255).astype(np.float32)
    assert to_uint8(levels).tolist() == list(range(256))
    assert to_uint8(np.array([-1.0, 2.0, 0.4999 / 255, 0.5001 / 255], np.float32)).tolist() == [0, 255, 0, 1]
