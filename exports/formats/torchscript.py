"""TorchScript: a traced and frozen module, for TorchServe and libtorch."""

import io
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ganctl.exports.formats.base import UnitRangeGenerator, example_inputs, quiet
from ganctl.training.models.base import Generator


def write(generator: Generator, essentials: Mapping[str, str]) -> bytes:
    """The bytes of a TorchScript file; see `Format`. In memory: torch's file writer hides why a disk refused a file."""
    buffer = io.BytesIO()
    with quiet():
        script = torch.jit.freeze(torch.jit.trace(UnitRangeGenerator(generator).eval(), example_inputs(generator, 2)))
        torch.jit.save(script, buffer, _extra_files=dict(essentials))
    return buffer.getvalue()


def load(content: bytes) -> Callable[..., Tensor]:
    """The file in torch.jit; see `Format`."""
    with quiet():
        script: Callable[..., Tensor] = torch.jit.load(io.BytesIO(content))
    return script
