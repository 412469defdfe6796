"""TorchScript format: a traced and frozen module, for TorchServe and libtorch."""

import io
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ganctl.exports.formats.base import UnitRangeGenerator, example_inputs, hide_exporter_warnings
from ganctl.training.models.base import Generator

_MANGLED = re.compile(rb"\.?___torch_mangle_\d+|/___torch_mangle_\d+")  # counts the traces of this process
_STACK_TRACES = ".debug_pkl"  # with the paths of this machine, and of the program that called `export`


def write(generator: Generator, metadata: Mapping[str, str]) -> bytes:
    """Writes a TorchScript file; see `Format`.

    In memory, because torch's file writer hides the cause of a failed write.
    """
    buffer = io.BytesIO()
    # the trace records these flags, which a training in this process may have set
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True)
    with hide_exporter_warnings(), flags:
        script = torch.jit.freeze(torch.jit.trace(UnitRangeGenerator(generator).eval(), example_inputs(generator, 2)))
        torch.jit.save(script, buffer, _extra_files=dict(metadata))
    return _make_reproducible(buffer.getvalue())


def _make_reproducible(content: bytes) -> bytes:
    """Copies a TorchScript file without what depends on the process and the machine that wrote it."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name in reader.get_all_records():
        if not (name.endswith(_STACK_TRACES) or name.startswith(".data/")):  # the writer adds .data/serialization_id
            record = reader.get_record(name)
            is_code = name.endswith((".py", ".pkl"))
            data = _MANGLED.sub(b"", record) if is_code else record
            writer.write_record(_MANGLED.sub(b"", name.encode()).decode(), data, len(data))
    writer.write_end_of_file()
    return buffer.getvalue()


def load(content: bytes) -> Callable[..., Tensor]:
    """Loads the file with torch.jit; see `Format`."""
    with hide_exporter_warnings():
        script: Callable[..., Tensor] = torch.jit.load(io.BytesIO(content))
    return script
