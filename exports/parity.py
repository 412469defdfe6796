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

    With four channels, colors are compared as they are visible: multiplied with alpha. The division by a small alpha
    makes rounding errors up to 255 times larger, in colors that nobody sees.

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
        differences[n] = (_visible(found) - _visible(expected)).abs().max().item()
        if not differences[n] <= TOLERANCE:  # also true for NaN
            raise ParityError(
                f"{name}: differs from the checkpoint's generator by {differences[n]:.2e} at N = {n}, expected at"
                f" most {TOLERANCE:.0e}. Try another --format"
            )
    return differences


def _visible(images: Tensor) -> Tensor:
    """Multiplies the colors of images in [0, 1], [N, C, H, W], with alpha if they have one."""
    return images if images.shape[1] != 4 else torch.cat([images[:, :3] * images[:, 3:], images[:, 3:]], dim=1)
