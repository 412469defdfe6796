"""Loads a TorchScript file, and runs it by the same kernels each time."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def load_module(path: Path, device: str) -> "torch.nn.Module":
    """Load a TorchScript file onto a device."""
    import torch

    with warnings.catch_warnings():  # TorchScript is deprecated, but works; each worker would log the warning
        warnings.simplefilter("ignore")
        module: torch.nn.Module = torch.jit.load(str(path), map_location=device).eval()
    return module


@contextmanager
def fixed_kernels() -> Iterator[None]:
    """Run modules without gradients; the optimizing executor would replace kernels after the first runs."""
    import torch

    # PyTorch documents optimized_execution, but does not list it in torch.jit.__all__, where mypy looks
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        yield
