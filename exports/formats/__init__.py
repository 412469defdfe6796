"""Export formats: FILES and a module of the same name for each format. Importing this package does not import torch."""

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

    from ganctl.training.models.base import Generator

# format → file name, in order of preference for sampling
FILES = {"onnx": "generator.onnx", "torchscript": "generator.ts", "pt2": "generator.pt2"}


class Format(Protocol):
    """Interface of a format's module.

    All files take `z` float32 [N, latent_dim] and, if the generator is conditional, `label` int64 [N], and return
    `image` float32 [N, C, H, W] in [0, 1]. N is dynamic.
    """

    def write(self, generator: "Generator", metadata: Mapping[str, str]) -> bytes:
        """Converts a generator in evaluation mode to the bytes of a file, which contains `metadata`."""

    def load(self, content: bytes) -> "Callable[..., Tensor]":
        """Loads the bytes of a file as a function of the tensors z and, if conditional, label, in the usual runtime."""


def get_format(name: str) -> Format:
    """Imports the module of a format in FILES."""
    return cast(Format, importlib.import_module(f"{__name__}.{name}"))
