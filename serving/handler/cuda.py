"""Runs a TorchScript generator on a GPU, with one CUDA graph for each chunk size.

A request for one image launches dozens of small kernels, and launching them takes longer than running them. A graph
launches all at once (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .torchscript import fixed_kernels, load_module

if TYPE_CHECKING:
    import torch

CHUNKS = (1, 8, 64)  # candidate chunk sizes; each one that is used keeps a graph and its memory
_WARMUP_RUNS = 3  # before a capture, so that libraries allocate and choose what they need

Floats = NDArray[np.float32]


def find_gpu(environment: Mapping[str, str], backend: str) -> str | None:
    """Return the name of the GPU that the variable GANCTL_DEVICE asks for; None to run on the CPU.

    Args:
        environment: the environment variables; GANCTL_DEVICE is `cpu` (the default), `cuda`, or `auto` for a GPU where
            there is one and the model can use it.
        backend: of the archive; only `torchscript` runs on a GPU.

    Raises:
        ValueError: the variable has another value, or it is `cuda` and the model cannot run on a GPU here.
    """
    device = environment.get("GANCTL_DEVICE", "cpu")
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"GANCTL_DEVICE: found {device!r}, expected auto, cpu or cuda. Change it, or unset it.")
    if device == "cpu" or (device == "auto" and backend != "torchscript"):
        return None
    if backend != "torchscript":
        raise ValueError(f"--device cuda: found a model for {backend}, expected torchscript. Use another --backend.")
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if device == "cuda":
        raise ValueError(f"--device cuda: torch {torch.__version__} found no GPU. Leave --device out.")
    return None


def load_torchscript(path: Path) -> Callable[[dict[str, NDArray[Any]]], Floats]:
    """Load a TorchScript file onto the GPU; the function is safe to call from several threads.

    TF32 is off and cuDNN's choice of kernels is fixed, so that images are within one gray level of those of a CPU, and
    equal on GPUs of the same kind.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    module = load_module(path, "cuda")
    graphs: dict[int, _Graph] = {}
    lock = threading.Lock()  # the threads of a worker share the graphs' memory

    def run(inputs: dict[str, NDArray[Any]]) -> Floats:
        size = len(inputs["z"])
        tensors = [torch.from_numpy(rows) for rows in inputs.values()]
        with lock, fixed_kernels():
            if size not in graphs:
                graphs[size] = _Graph(module, tensors)
            return graphs[size].run(tensors)

    return run


class _Graph:
    """A captured pass of `module`; `run` repeats it on other inputs of the same shapes."""

    def __init__(self, module: "torch.nn.Module", inputs: "list[torch.Tensor]") -> None:
        import torch

        self._inputs = [tensor.cuda() for tensor in inputs]
        stream = torch.cuda.Stream()  # a capture needs a stream other than the default one, and so does its warm-up
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARMUP_RUNS):
                module(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._images = module(*self._inputs)

    def run(self, inputs: "list[torch.Tensor]") -> Floats:
        """Return the images of `inputs`, float32 [N, C, H, W]."""
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            buffer.copy_(tensor)
        self._graph.replay()
        images: Floats = self._images.cpu().numpy()
        return images
