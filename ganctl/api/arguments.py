"""Checks of the arguments that users of the Python API pass; each error names the argument."""

import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ganctl.common.latents import MAX_SEED
from ganctl.common.text import nfc
from ganctl.training.sampling.request import SampleRequest

Labels = int | str | Sequence[int | str] | NDArray[np.integer]
"""One label or several, each by its index or by the name of its class."""

_NAMES_SHOWN = 20


def check_integer(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raises ValueError if an argument is no integer from `low` to `high`."""
    integer = operator.index(value) if isinstance(value, SupportsIndex) and not isinstance(value, bool) else None
    if integer is None or not low <= integer <= (high or np.inf):
        expected = f"an integer from {low} to {high}" if high else f"an integer of {low} or more"
        raise ValueError(f"{name}: found {value!r}, expected {expected}.")


def to_latents(z: ArrayLike, latent_dim: int) -> NDArray[np.float32]:
    """Converts latents, [N, latent_dim] or [latent_dim], to float32 [N, latent_dim].

    Raises:
        ValueError: they have another shape, or are not finite.
    """
    latents = np.atleast_2d(np.asarray(z, np.float32))
    if latents.ndim != 2 or latents.shape[1] != latent_dim or not len(latents):
        raise ValueError(f"z: found the shape {np.shape(z)}, expected (N, {latent_dim}).")
    if not np.isfinite(latents).all():
        raise ValueError("z: found NaN or infinity, expected finite values.")
    return latents


class Classes:
    """The classes of a generator, and the conversion of labels. All methods raise ValueError for a wrong argument.

    Attributes:
        names: of the classes; empty if the generator is unconditional.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def request(
        self, labels: Labels | None, text: str | None, count: int | None, seed: int | None, truncation: float
    ) -> SampleRequest:
        """Converts the arguments of `ImageGenerator.sample`."""
        if labels is not None and text is not None:
            raise ValueError("text: found labels as well, expected one of them. Leave one out.")
        names = () if labels is None else tuple(self.names[index] for index in self._indices(labels))
        if text is not None:
            self._check_text(text)
        if count is not None:
            check_integer("count", count, 1)
        if seed is not None:
            check_integer("seed", seed, 0, MAX_SEED)
        if not 0 <= truncation <= 1:
            raise ValueError(f"truncation: found {truncation}, expected a number from 0 to 1.")
        return SampleRequest(labels=names, text=text, count=count, seed=seed, truncation=float(truncation))

    def indices(self, labels: Labels | None, n: int) -> NDArray[np.int64]:
        """Converts one label or n labels to int64 [n]; those of an unconditional generator are 0."""
        if labels is None:
            if self.names:
                raise ValueError(f"labels: found none, expected one label, or {n}. Give those of the images.")
            return np.zeros(n, np.int64)
        indices = np.array(self._indices(labels), np.int64)
        if len(indices) not in (1, n):
            raise ValueError(f"labels: found {len(indices)}, expected one label, or {n}.")
        return np.resize(indices, n)

    def _indices(self, labels: Labels) -> list[int]:
        self._need_labels("labels")
        entries = [labels] if isinstance(labels, str) or np.ndim(labels) == 0 else list(labels)  # type: ignore[arg-type]  # a sequence
        if not entries:
            raise ValueError("labels: found none, expected one or more. Leave labels out to draw them.")
        return [self._index(entry) for entry in entries]

    def _index(self, label: object) -> int:
        index = -1
        if isinstance(label, str):
            index = self.names.index(nfc(label)) if nfc(label) in self.names else -1
        elif isinstance(label, SupportsIndex) and not isinstance(label, bool):
            index = operator.index(label)
        if not 0 <= index < len(self.names):
            expected = f"the name of a class ({self._shown()}) or its index, from 0 to {len(self.names) - 1}"
            raise ValueError(f"labels: found {label!r}, expected {expected}.")
        return index

    def _check_text(self, text: str) -> None:
        self._need_labels("text")
        unknown = [character for character in nfc(text) if character not in self.names]
        if not text or unknown:
            found = repr(unknown[0]) if unknown else "no character"
            raise ValueError(f"text {text!r}: found {found}, expected names of classes ({self._shown()}).")

    def _need_labels(self, argument: str) -> None:
        if not self.names:
            raise ValueError(f"{argument}: this generator is unconditional, so it has no labels. Leave {argument} out.")

    def _shown(self) -> str:
        return ", ".join(self.names[:_NAMES_SHOWN]) + (", …" if len(self.names) > _NAMES_SHOWN else "")
