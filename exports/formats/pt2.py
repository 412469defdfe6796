"""PT2 format: the graph of torch.export, for AOTInductor and ExecuTorch."""

import io
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ganctl.exports.formats.base import export_program, hide_exporter_warnings
from ganctl.training.models.base import Generator


def write(generator: Generator, metadata: Mapping[str, str]) -> bytes:
    """Writes a PT2 file; see `Format`."""
    buffer = io.BytesIO()
    with hide_exporter_warnings():
        program = export_program(generator)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # the paths of this machine
        torch.export.save(program, buffer, extra_files=dict(metadata))
    return buffer.getvalue()


def load(content: bytes) -> Callable[..., Tensor]:
    """Loads the graph of the file in eager torch; see `Format`."""
    program: Callable[..., Tensor] = torch.export.load(io.BytesIO(content)).module()
    return program
