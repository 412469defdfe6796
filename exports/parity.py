"""Parity check: compares an exported file with the eager generator in float32 and float64, at several batch sizes."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ganctl.exports.errors import ParityError
from ganctl.exports.formats.base import UnitRangeGenerator, example_inputs
from ganctl.training.models.base import Generator

SIZES = (1, 2, 3, 7, 64, 256)
TOLERANCE = 1e-5  # of float32 images in [0, 1]
_ROUNDING = 2.0  # times the rounding error of the eager generator that a file may have

Differences = dict[int, float]  # batch size → largest absolute difference


class Parity(NamedTuple):
    """Largest differences of a file's images from those of the eager generator in float32 and in float64."""

    float32: Differences
    float64: Differences


class ParityCheck:
    """Compares files with one generator; the images of the generator are computed once.

    With four channels, colors are compared as they are visible: multiplied with alpha. The division by a small alpha
    makes rounding errors up to 255 times larger, in colors that nobody sees.

    Attributes:
        rounding: largest differences between the float32 and the float64 images of the eager generator.
    """

    @torch.inference_mode()
    def __init__(self, generator: Generator) -> None:
        self._inputs = {n: example_inputs(generator, n, seed=n) for n in SIZES}
        self._float32 = {n: _run(generator, inputs) for n, inputs in self._inputs.items()}
        exact = copy.deepcopy(generator).double()
        self._float64 = {n: _run(exact, (z.double(), *label)) for n, (z, *label) in self._inputs.items()}
        self.rounding = {n: _largest_difference(self._float32[n], self._float64[n]) for n in SIZES}

    @torch.inference_mode()
    def differences(self, name: str, run: Callable[..., Tensor]) -> Parity:
        """Measures the differences of a file.

        Args:
            name: the file name, for the error.
            run: the file as a function of z and, if conditional, label; see `formats.Format.load`.

        Raises:
            ParityError: the shapes differ.
        """
        parity = Parity({}, {})
        for n, inputs in self._inputs.items():
            found, expected = _visible(run(*inputs)), self._float32[n]
            if found.shape != expected.shape:
                raise ParityError(f"{name}: found images of shape {(*found.shape,)}, expected {(*expected.shape,)}")
            parity.float32[n] = _largest_difference(found, expected)
            parity.float64[n] = _largest_difference(found, self._float64[n])
        return parity

    def check(self, name: str, run: Callable[..., Tensor]) -> Parity:
        """Measures the differences of a file that must give the images of the generator; see `differences`.

        A file may differ from the float32 images by TOLERANCE. Where the generator amplifies rounding errors, two
        correct files can differ by more; then the file must be as near to the float64 images as the generator is,
        within a factor of 2.

        Raises:
            ParityError: a difference is too large or NaN, or the shapes differ.
        """
        parity = self.differences(name, run)
        for n in SIZES:
            is_equal = parity.float32[n] <= TOLERANCE  # false for NaN
            is_as_exact = parity.float64[n] <= _ROUNDING * self.rounding[n]
            if not (is_equal or is_as_exact):
                raise ParityError(
                    f"{name}: differs from the checkpoint's generator by {parity.float32[n]:.2e} at N = {n}, expected"
                    f" at most {TOLERANCE:.0e}; from float64 by {parity.float64[n]:.2e}, expected at most"
                    f" {_ROUNDING:.0f} × {self.rounding[n]:.2e}, the generator's own difference. Try another --format"
                )
        return parity


def _run(generator: Generator, inputs: tuple[Tensor, ...]) -> Tensor:
    images: Tensor = UnitRangeGenerator(generator).eval()(*inputs)
    return _visible(images)


def _visible(images: Tensor) -> Tensor:
    """Multiplies the colors of images in [0, 1], [N, C, H, W], with alpha if they have one."""
    return images if images.shape[1] != 4 else torch.cat([images[:, :3] * images[:, 3:], images[:, 3:]], dim=1)


def _largest_difference(found: Tensor, expected: Tensor) -> float:
    return (found.double() - expected.double()).abs().max().item()
