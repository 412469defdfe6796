"""TorchScript format: a traced and frozen module, for TorchServe and libtorch."""

import io
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ganctl.exports.formats.base import UnitRangeGenerator, example_inputs, hide_exporter_warnings
from ganctl.training.models.base import Generator


def write(generator: Generator, metadata: Mapping[str, str]) -> bytes:
    """Writes a TorchScript file; see `Format`.

    In memory, because torch's file writer hides the cause of a failed write.
    """
    buffer = io.BytesIO()
    with hide_exporter_warnings():
        script = torch.jit.freeze(torch.jit.trace(UnitRangeGenerator(generator).eval(), example_inputs(generator, 2)))
        torch.jit.save(script, buffer, _extra_files=dict(metadata))
    return buffer.getvalue()


def load(content: bytes) -> Callable[..., Tensor]:
    """Loads the file with torch.jit; see `Format`."""
    with hide_exporter_warnings():
        script: Callable[..., Tensor] = torch.jit.load(io.BytesIO(content))
    return script
