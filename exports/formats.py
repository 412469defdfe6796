"""A generator as files: TorchScript, ONNX and PT2, each with the manifest's essentials inside.

All take `z` float32 [N, latent_dim] and, where the generator is conditional, `label` int64 [N], and give `image`
float32 [N, C, H, W] in [0, 1]; N is free.
"""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from ganctl.exports.coarse import on_coarse_grids
from ganctl.training.models.networks import Generator

FILES = {"torchscript": "generator.ts", "onnx": "generator.onnx", "pt2": "generator.pt2"}
OPSET = 20


class Drawer(nn.Module):
    """A generator whose images are in [0, 1], as users of an export expect them."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        images: Tensor = self.generator(z, label) if label is not None else self.generator(z)
        return ((images + 1) * 0.5).clamp(0, 1)


def example_inputs(generator: Generator, n: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    """z, and where conditional label, for a batch of n."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(n, generator.latent_dim, generator=rng)
    return (z,) if generator.classes is None else (z, torch.randint(generator.classes, (n,), generator=rng))


def serialize(generator: Generator, kind: str, essentials: Mapping[str, str]) -> bytes:
    """A generator in evaluation mode as the bytes of a file of `kind`, one of FILES.

    In memory: torch's own file writers do not say why the disk refused a file, or abort the process.
    """
    drawer, buffer = Drawer(generator).eval(), io.BytesIO()
    with _quiet():
        if kind == "onnx":
            return _onnx(generator, essentials)
        if kind == "torchscript":
            script = torch.jit.freeze(torch.jit.trace(drawer, example_inputs(generator, 2)))
            torch.jit.save(script, buffer, _extra_files=dict(essentials))
        else:
            assert kind == "pt2", kind
            torch.export.save(_program(drawer), buffer, extra_files=dict(essentials))
    return buffer.getvalue()


def _onnx(generator: Generator, essentials: Mapping[str, str]) -> bytes:
    exported = torch.onnx.export(
        _program(Drawer(on_coarse_grids(generator)).eval()),
        input_names=["z", "label"] if generator.conditional else ["z"],
        output_names=["image"],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None, "dynamo=True gives a program"
    model = exported.model_proto
    for name, value in essentials.items():
        model.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _program(drawer: Drawer) -> torch.export.ExportedProgram:
    n = torch.export.Dim("N", min=1)
    inputs = example_inputs(drawer.generator, 2)  # not 1: a size of 1 would be taken for a constant
    shapes = {"z": {0: n}, "label": {0: n} if len(inputs) == 2 else None}
    return torch.export.export(drawer, inputs, dynamic_shapes=shapes if len(inputs) == 2 else {"z": {0: n}})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps out what exporters say of themselves: TorchScript's deprecation, which we know and have an answer to
    (ONNX stands beside it), the ONNX exporter's notes on operators of torchvision that no generator uses, and torch's
    doubt whether channels-last weights are whole: the written file is compared with the generator."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|onnxscript|copyreg).*")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|onnxscript|copyreg).*")
        yield
