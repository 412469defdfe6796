"""The ONNX file is one file of the lowest opset, for dynamic N, that other and older readers run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx.version_converter
import onnxruntime
import pytest
from numpy.typing import NDArray

from ganctl.exports.export import export
from ganctl.exports.formats import SMALL_FORMS, get_format
from ganctl.training.images.source import load_generator

OLD_RUNTIME = "1.20.1"  # of November 2024
Inputs = dict[str, NDArray[Any]]
Images = NDArray[np.float32]
_RUN = """
import sys, numpy as np, onnxruntime
assert onnxruntime.__version__ == sys.argv[3], onnxruntime.__version__
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
inputs = np.load(sys.argv[2])
np.save(sys.argv[2] + ".images.npy", session.run(None, {n.name: inputs[n.name] for n in session.get_inputs()})[0])
"""


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_run, out=tmp_path_factory.mktemp("onnx") / "export", formats=["onnx"])


@pytest.fixture(scope="module")
def inputs(exported: Path) -> Inputs:
    session = onnxruntime.InferenceSession(exported / "generator.onnx")
    z = np.random.default_rng(0).standard_normal((6, session.get_inputs()[0].shape[1])).astype(np.float32)
    return {"z": z, "label": np.arange(6)}


@pytest.fixture(scope="module")
def images(exported: Path, inputs: Inputs) -> Images:
    found: Images = onnxruntime.InferenceSession(exported / "generator.onnx").run(None, inputs)[0]
    return found


def test_the_file_has_opset_18_a_dynamic_n_and_no_external_data_and_passes_the_full_check(exported: Path) -> None:
    assert [path.suffix for path in exported.iterdir() if path.suffix in (".onnx", ".data")] == [".onnx"]
    model = onnx.load(exported / "generator.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert shapes["z"][0] == shapes["label"][0] == "N"


def test_the_reference_implementation_of_onnx_draws_the_same_images(
    exported: Path, inputs: Inputs, images: Images
) -> None:
    found = _run_reference(onnx.load(exported / "generator.onnx"), inputs)
    assert np.abs(found - images).max() <= 1e-5


def _run_reference(model: onnx.ModelProto, inputs: Inputs) -> Images:
    (images,) = onnx.reference.ReferenceEvaluator(model).run(None, inputs)
    return np.asarray(images)


@pytest.mark.parametrize("form", ["onnx-fp16", pytest.param("onnx-int8", marks=pytest.mark.soak)])
def test_the_reference_implementation_runs_the_small_forms(form: str, small_run: Path, inputs: Inputs) -> None:
    generator, _ = load_generator(small_run / "checkpoints/best.safetensors")
    content = get_format(form).write(generator, {})
    expected = onnxruntime.InferenceSession(content).run(None, inputs)[0]
    model = onnx.version_converter.convert_version(onnx.load_from_string(content), 19)  # its DequantizeLinear is of 19
    found = _run_reference(model, inputs)
    assert np.sqrt(np.square(found - expected).mean()) <= 2 / 255  # fused int8 kernels may round to the next step


@pytest.fixture(scope="module")
def old_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with an ONNX Runtime that is two years old, and without ganctl."""
    folder = tmp_path_factory.mktemp("old")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder / "venv")], check=True)
    python = folder / "venv/bin/python"
    packages = ["-q", f"onnxruntime=={OLD_RUNTIME}", "numpy<2.3"]
    subprocess.run([*uv, "pip", "install", "--python", str(python), *packages], check=True)
    return python


def test_an_onnx_runtime_two_years_old_draws_the_same_images(
    small_run: Path, inputs: Inputs, old_runtime: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "inputs.npz", z=inputs["z"], label=inputs["label"])
    generator, _ = load_generator(small_run / "checkpoints/best.safetensors")
    for form in ("onnx", *SMALL_FORMS):
        file = tmp_path / "model.onnx"
        content = get_format(form).write(generator, {})
        file.write_bytes(content)
        command = [str(old_runtime), "-I", "-c", _RUN, str(file), str(tmp_path / "inputs.npz"), OLD_RUNTIME]
        subprocess.run(command, check=True)
        expected = onnxruntime.InferenceSession(content).run(None, inputs)[0]
        found = np.load(tmp_path / "inputs.npz.images.npy")
        assert np.abs(found - expected).max() <= (1e-5 if form != "onnx-int8" else 0.02), form
