"""A small export for the tests of serving: an untrained generator whose images show their label as a bright block.

With four channels the block is opaque, and what surrounds it nearly transparent; without labels alpha is noise.
"""

import functools
import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import Tensor, nn

Z_DIM, CLASSES = 16, 10
NAMES = [str(digit) for digit in range(CLASSES)]
MODEL_FILES = {"onnx": "generator.onnx", "torchscript": "generator.ts"}  # by back-end


class Generator(nn.Module):
    """Noise from z, by a linear layer and a convolution, plus a bright block for the label (if any): [N, C, 28, 28]."""

    def __init__(self, channels: int, conditional: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(Z_DIM, 8 * 14 * 14)
        self.convolution = nn.ConvTranspose2d(8, channels, 4, 2, 1)
        self.blocks = nn.Embedding(CLASSES, channels * 28 * 28)
        self.conditional = conditional
        with torch.no_grad():
            blocks = torch.full((CLASSES, channels, 28, 28), -3.0)
            for label in range(CLASSES):
                row, column = divmod(label, 4)
                blocks[label, :, 7 * row : 7 * row + 7, 7 * column : 7 * column + 7] = 3.0
            self.blocks.weight.copy_(blocks.flatten(1))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        image = self.convolution(torch.relu(self.linear(z)).unflatten(1, (8, 14, 14)))
        if label is not None:
            image = image + self.blocks(label).unflatten(1, image.shape[1:])
        return torch.sigmoid(image)


def seen_label(image: Any) -> int:
    """The label whose block is the brightest in an image [28, 28] or [28, 28, C]."""
    blocks = [image[7 * (k // 4) : 7 * (k // 4) + 7, 7 * (k % 4) : 7 * (k % 4) + 7].mean() for k in range(CLASSES)]
    return max(range(CLASSES), key=blocks.__getitem__)


def write_export(folder: Path, conditional: bool = True, channels: int = 1, **fields: Any) -> Path:
    """Write an export into `folder`, in the format of `ganctl export`, and return the folder.

    Args:
        folder: created if it is absent.
        conditional: whether the generator has labels. `class_names=[]` in `fields` makes the data unlabeled as well.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        fields: replace fields of the manifest, or add some.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, content in _model_files(conditional, channels).items():
        (folder / name).write_bytes(content)
        files[name] = entry(content)
    manifest = {
        "schema_version": 1,
        "model_version": files["generator.onnx"]["sha256"][:12],
        "preset": "small",
        "data": "mnist",
        "conditional": conditional,
        "z": {"dim": Z_DIM, "distribution": "normal"},
        "class_names": NAMES,
        "image": {"channels": channels, "height": 28, "width": 28},
        "inputs": ["z", "label"] if conditional else ["z"],
        "output": "image",
        "files": files,
        "checkpoint": {"sha256": "0" * 64, "step": 1, "images": 64, "metrics": {"fd": 1.0}},
        "parity": {},
        "versions": {"torch": torch.__version__},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | fields))
    return folder


def entry(content: bytes) -> dict[str, Any]:
    """A file's entry in `files` of the manifest."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@functools.cache
def _model_files(conditional: bool, channels: int) -> dict[str, bytes]:
    torch.manual_seed(0)
    generator = Generator(channels, conditional).eval()
    inputs = (torch.randn(2, Z_DIM), torch.tensor([3, 7]))[: 2 if conditional else 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        script = io.BytesIO()
        torch.jit.save(torch.jit.freeze(torch.jit.trace(generator, inputs)), script)
    return {"generator.onnx": _onnx(generator, channels), "generator.ts": script.getvalue()}


def _onnx(generator: Generator, channels: int) -> bytes:
    """The network as ONNX, written node by node, because PyTorch's exporter needs many seconds."""
    make, float32 = onnx.helper, onnx.TensorProto.FLOAT
    weights = {name: value.numpy() for name, value in generator.state_dict().items()}
    weights |= {"shape8": np.array([-1, 8, 14, 14]), "shape_image": np.array([-1, channels, 28, 28])}
    nodes = [
        make.make_node("Gemm", ["z", "linear.weight", "linear.bias"], ["a"], transB=1),
        make.make_node("Relu", ["a"], ["b"]),
        make.make_node("Reshape", ["b", "shape8"], ["c"]),
        make.make_node(
            "ConvTranspose",
            ["c", "convolution.weight", "convolution.bias"],
            ["noise"],
            kernel_shape=[4, 4],
            strides=[2, 2],
            pads=[1, 1, 1, 1],
        ),
    ]
    inputs = [make.make_tensor_value_info("z", float32, ["N", Z_DIM])]
    if generator.conditional:
        inputs.append(make.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"]))
        nodes += [
            make.make_node("Gather", ["blocks.weight", "label"], ["d"]),
            make.make_node("Reshape", ["d", "shape_image"], ["e"]),
            make.make_node("Add", ["noise", "e"], ["sum"]),
        ]
    nodes.append(make.make_node("Sigmoid", [nodes[-1].output[0]], ["image"]))
    used = {name for node in nodes for name in node.input}
    graph = make.make_graph(
        nodes,
        "small",
        inputs,
        [make.make_tensor_value_info("image", float32, ["N", channels, 28, 28])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items() if name in used],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
