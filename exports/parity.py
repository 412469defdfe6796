"""Compares an exported file with the eager generator at several batch sizes."""

from collections.abc import Callable

import torch
from torch import Tensor

from ganctl.exports.errors import ParityError
from ganctl.exports.formats.base import UnitRangeGenerator, example_inputs
from ganctl.training.models.base import Generator

SIZES = (1, 2, 3, 7, 64, 256)
TOLERANCE = 1e-5  # of float32 images in [0, 1]


@torch.inference_mode()
def measure(name: str, run: Callable[..., Tensor], generator: Generator) -> dict[int, float]:
    """The largest absolute difference between an exported file and the eager generator, for each batch size.

    Args:
        name: the file's name, for the error.
        run: the file as a function of z and, where conditional, label; see `formats.Format.load`.

    Raises:
        ParityError: it is above TOLERANCE, or not a number, at any size.
    """
    eager = UnitRangeGenerator(generator).eval()
    differences = {}
    for n in SIZES:
        inputs = example_inputs(generator, n, seed=n)
        expected, found = eager(*inputs), run(*inputs)
        if found.shape != expected.shape:
            raise ParityError(f"{name}: gives {tuple(found.shape)} for {n} images, expected {tuple(expected.shape)}")
        differences[n] = (found - expected).abs().max().item()
        if not differences[n] <= TOLERANCE:  # written so that NaN fails, too
            raise ParityError(
                f"{name}: differs from the checkpoint's generator by {differences[n]:.2e} at N = {n}, expected at"
                f" most {TOLERANCE:.0e}; nothing was exported. Try another --format, and report it with these versions"
            )
    return differences
