"""Features of ONNX files: types, layouts and sizes of inputs, outputs by name, weights in further files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn.functional import interpolate

from ganctl.training.errors import DataError
from ganctl.training.evaluation.feature_files import FileFeatures

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet
OUTPUTS = {"mean": 0, "pooler_output": 1, "last": 2}


def save(
    path: Path,
    shape: list[Any],
    *,
    dtype: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("mean",),
    inputs: int = 1,
    scale: float = 1,
    external: bool = False,
) -> Path:
    """Writes a network that returns `scale` times the mean colors, plus the number of the output."""
    axes = [1, 2] if shape[3] == 3 else [2, 3]
    tensors = {"scale": np.array([scale], np.float32)}
    tensors |= {f"offset_{name}": np.array([OUTPUTS[name]], np.float32) for name in outputs}
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["colors"], axes=axes, keepdims=0),
        helper.make_node("Mul", ["colors", "scale"], ["scaled"]),
        *(helper.make_node("Add", ["scaled", f"offset_{name}"], [name]) for name in outputs),
    ]
    names = ["images", *(f"more_{i}" for i in range(inputs - 1))]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info(name, dtype, shape) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [shape[0], 3]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    arguments: dict[str, Any] = {"location": "weights.data", "size_threshold": 0} if external else {}
    (path.parent / "weights.data").unlink(missing_ok=True)  # else the weights are appended
    onnx.save(model, path, save_as_external_data=external, **arguments)
    return path


def noise(n: int, size: int = 20) -> Tensor:
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def mean_colors(images: Tensor, size: tuple[int, int]) -> Tensor:
    resized = interpolate(images.float(), size=size, mode="bicubic", antialias=True).clamp(0, 255)
    return resized.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (["N", 3, 32, 48], (32, 48)),
        (["N", 3, "height", "width"], (224, 224)),
        (["N", "channels", "height", "width"], (224, 224)),
        (["N", 32, 48, 3], (32, 48)),
        ([1, 3, 32, 32], (32, 32)),
        ([4, 3, 32, 32], (32, 32)),
    ],
)
def test_float_networks_get_normalized_images_in_their_size_layout_and_batch(
    shape: list[Any], size: tuple[int, int], tmp_path: Path
) -> None:
    images = noise(7)
    features = FileFeatures(save(tmp_path / "network.onnx", shape))(images)
    assert features.dtype == torch.float32
    assert torch.allclose(features, (mean_colors(images, size) / 255 - MEAN) / STD, atol=1e-4)


def test_float16_networks_get_normalized_images(tmp_path: Path) -> None:
    images = noise(7)
    features = FileFeatures(save(tmp_path / "half.onnx", ["N", 3, 32, 32], dtype=TensorProto.FLOAT16))(images)
    assert torch.allclose(features, (mean_colors(images, (32, 32)) / 255 - MEAN) / STD, atol=1e-2)


@pytest.mark.parametrize("shape", [["N", 3, 32, 32], ["N", 32, 32, 3]])
def test_uint8_networks_get_pixels(shape: list[Any], tmp_path: Path) -> None:
    images = noise(7)
    features = FileFeatures(save(tmp_path / "network.onnx", shape, dtype=TensorProto.UINT8))(images)
    assert torch.allclose(features, mean_colors(images, (32, 32)), atol=0.1)
    assert torch.allclose(FileFeatures(tmp_path / "network.onnx")(noise(7, 32)), noise(7, 32).float().mean((2, 3)))


def test_an_output_that_is_named_like_features_is_preferred_and_announced(tmp_path: Path) -> None:
    lines: list[str] = []
    images = noise(3, 32)
    shape, pixels = ["N", 3, 32, 32], images.float().mean(dim=(2, 3))
    path = save(tmp_path / "named.onnx", shape, dtype=TensorProto.UINT8, outputs=("mean", "pooler_output", "last"))
    assert torch.allclose(FileFeatures(path, lines.append)(images), pixels + OUTPUTS["pooler_output"])
    assert "the output pooler_output of mean, pooler_output, last" in lines[0]
    path = save(tmp_path / "unnamed.onnx", shape, dtype=TensorProto.UINT8, outputs=("last", "mean"))
    assert torch.allclose(FileFeatures(path, lines.append)(images), pixels + OUTPUTS["last"])
    assert "the output last of last, mean" in lines[1]


def test_other_weights_in_a_further_file_give_another_digest(tmp_path: Path) -> None:
    digests, values = [], []
    for scale in (1, 2, 1):
        path = save(tmp_path / "network.onnx", ["N", 3, 32, 32], scale=scale, external=True)
        features = FileFeatures(path)
        digests.append(features.digest)
        values.append(features(noise(2)))
    assert digests[0] == digests[2] != digests[1]
    assert torch.allclose(values[1], 2 * values[0])


def test_the_error_names_file_and_inputs(tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)) * 40)
    orphan = save(tmp_path / "orphan.onnx", ["N", 3, 32, 32], external=True)  # the next `save` deletes its weights
    reasons = {
        tmp_path / "absent.onnx": "No such file",
        tmp_path / "noise.onnx": "no ONNX file that can be run",
        orphan: r"no ONNX file that can be run.*weights\.data",
        save(tmp_path / "gray.onnx", ["N", 1, 32, 32]): r"images tensor\(float\) \['N', 1, 32, 32\].*\[N, 3, height",
        save(tmp_path / "text.onnx", ["N", 3, 32, 32], dtype=TensorProto.INT64): r"tensor\(int64\).*uint8",
        save(tmp_path / "two.onnx", ["N", 3, 32, 32], inputs=2): r"inputs images .*, more_0 .*expected one",
    }
    for path, reason in reasons.items():
        with pytest.raises(DataError, match=f"--features FILE: {re.escape(str(path))}: .*{reason}"):
            FileFeatures(path)
