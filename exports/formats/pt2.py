"""PT2: the graph of torch.export, for AOTInductor and ExecuTorch."""

import io
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ganctl.exports.formats.base import export_program, quiet
from ganctl.training.models.base import Generator


def write(generator: Generator, essentials: Mapping[str, str]) -> bytes:
    """The bytes of a PT2 file; see `Format`."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(export_program(generator), buffer, extra_files=dict(essentials))
    return buffer.getvalue()


def load(content: bytes) -> Callable[..., Tensor]:
    """The file's graph in eager torch; see `Format`."""
    program: Callable[..., Tensor] = torch.export.load(io.BytesIO(content)).module()
    return program
