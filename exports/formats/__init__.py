"""Export formats: FILES and a module of the same name for each format. Importing this package does not import torch."""

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

    from ganctl.training.models.base import Generator

# format → file name, in order of preference for sampling
FILES = {
    "onnx": "generator.onnx",
    "torchscript": "generator.ts",
    "pt2": "generator.pt2",
    "onnx-fp16": "generator.fp16.onnx",
    "onnx-int8": "generator.int8.onnx",
}
# they change the images, and are accepted by their scores: see exports/gate.py
SMALL_FORMS = ("onnx-fp16", "onnx-int8")
EXACT_FORMS = tuple(name for name in FILES if name not in SMALL_FORMS)


class Format(Protocol):
    """Interface of a format's module.

    All files take `z` float32 [N, latent_dim] and, if the generator is conditional, `label` int64 [N], and return
    `image` float32 [N, C, H, W] in [0, 1]. N is dynamic.
    """

    def write(self, generator: "Generator", metadata: Mapping[str, str]) -> bytes:
        """Converts a generator in evaluation mode to the bytes of a file, which contains `metadata`.

        The bytes depend on the weights, the metadata and the versions of the libraries alone.
        """

    def load(self, content: bytes) -> "Callable[..., Tensor]":
        """Loads the bytes of a file as a function of the tensors z and, if conditional, label, in the usual runtime."""


def get_format(name: str) -> Format:
    """Imports the module of a format in FILES."""
    return cast(Format, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
