"""Export formats: a row of FILES and a module of the same name each. Importing this package imports no torch."""

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

    from ganctl.training.models.base import Generator

# name → file of an export, in the order in which a program that draws prefers them
FILES = {"onnx": "generator.onnx", "torchscript": "generator.ts", "pt2": "generator.pt2"}


class Format(Protocol):
    """The functions of a format's module.

    All formats take `z` float32 [N, latent_dim] and, where the generator is conditional, `label` int64 [N], and give
    `image` float32 [N, C, H, W] in [0, 1]; N is free.
    """

    def write(self, generator: "Generator", essentials: Mapping[str, str]) -> bytes:
        """A generator in evaluation mode as the bytes of a file that holds the manifest's essentials."""

    def load(self, content: bytes) -> "Callable[..., Tensor]":
        """The file as a function on tensors, z and where conditional label, in the runtime that its users have."""


def get_format(name: str) -> Format:
    """The module of a format of FILES."""
    return cast(Format, importlib.import_module(f"{__name__}.{name}"))
