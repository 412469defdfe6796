"""Network wrapper, example inputs and warning filter shared by the export formats."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ganctl.training.models.base import Generator, divide_by_alpha


class UnitRangeGenerator(nn.Module):
    """Wraps a generator to return images in [0, 1] in place of [−1, 1], with colors not multiplied with alpha."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        images: Tensor = self.generator(z, label) if label is not None else self.generator(z)
        if self.generator.shape.channels == 4:
            images = divide_by_alpha(images)
        return ((images + 1) * 0.5).clamp(0, 1)


def example_inputs(generator: Generator, n: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Random z, float32 [n, latent_dim], and label, int64 [n], if the generator is conditional."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(n, generator.latent_dim, generator=rng)
    return (z,) if generator.classes is None else (z, torch.randint(generator.classes, (n,), generator=rng))


def export_program(generator: Generator) -> torch.export.ExportedProgram:
    """Exports the graph of a generator with a dynamic batch size."""
    network, n = UnitRangeGenerator(generator).eval(), torch.export.Dim("N", min=1)
    inputs = example_inputs(generator, 2)  # not 1: a size of 1 would become a constant
    return torch.export.export(network, inputs, dynamic_shapes=[{0: n}] * len(inputs))


@contextmanager
def hide_exporter_warnings() -> Iterator[None]:
    """Hides known warnings of the exporters.

    They concern the deprecation of TorchScript, torchvision operators that no generator uses, and channels-last weights
    (harmless: each written file is compared with the generator).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|onnxscript|copyreg).*")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|onnxscript|copyreg).*")
        yield
