"""Parity check: compares an exported file with the eager generator at several batch sizes."""

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
    """Measures the largest absolute difference between an exported file and the eager generator, per batch size.

    Args:
        name: the file name, for the error.
        run: the file as a function of z and, if conditional, label; see `formats.Format.load`.
        generator: the eager generator.

    Raises:
        ParityError: a difference exceeds TOLERANCE or is NaN, or the shapes differ.
    """
    eager = UnitRangeGenerator(generator).eval()
    differences = {}
    for n in SIZES:
        inputs = example_inputs(generator, n, seed=n)
        expected, found = eager(*inputs), run(*inputs)
        if found.shape != expected.shape:
            raise ParityError(f"{name}: found images of shape {(*found.shape,)}, expected {(*expected.shape,)}")
        differences[n] = (found - expected).abs().max().item()
        if not differences[n] <= TOLERANCE:  # also true for NaN
            raise ParityError(
                f"{name}: differs from the checkpoint's generator by {differences[n]:.2e} at N = {n}, expected at"
                f" most {TOLERANCE:.0e}. Try another --format"
            )
    return differences
