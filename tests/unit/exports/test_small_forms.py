"""Small ONNX forms draw nearly the images of their checkpoint, are accepted by their scores, and are served."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ganctl.exports import gate
from ganctl.exports.errors import ExportError, GateError
from ganctl.exports.export import export
from ganctl.exports.formats import FILES, SMALL_FORMS, get_format
from ganctl.exports.formats.base import UnitRangeGenerator, example_inputs
from ganctl.exports.formats.onnx_weights import quantize_rows
from ganctl.serving.archive.mar import package
from ganctl.serving.errors import PackageError
from ganctl.training.images.source import load_generator
from ganctl.training.models.base import Generator, ImageShape

SIZES = {"onnx-fp16": 0.52, "onnx-int8": 0.3}  # of the float32 file


@pytest.fixture(scope="module", autouse=True)
def fewer_scored_images() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "SCORED_IMAGES", 1000)
        yield


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def exported(small_run: Path, messages: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "export"
    with pytest.MonkeyPatch.context() as patch:
        # a hardly trained generator: 1,000 images with unclear labels vary by more than the limit of the gate
        patch.setattr(gate, "MAX_ACCURACY_LOSS", 0.02)
        return export(small_run, out=out, formats=["onnx"], small_forms=SMALL_FORMS, announce=messages.append)


@pytest.fixture(scope="module")
def generator(small_run: Path) -> Generator:
    return load_generator(small_run / "checkpoints/best.safetensors")[0]


def read_manifest(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return fields


@pytest.mark.parametrize("form", SMALL_FORMS)
def test_a_small_form_has_a_fraction_of_the_bytes(form: str, exported: Path) -> None:
    size, exact = ((exported / name).stat().st_size for name in (FILES[form], "generator.onnx"))
    assert size <= SIZES[form] * exact


@pytest.mark.parametrize(("form", "levels"), [("onnx-fp16", 1.0), ("onnx-int8", 8.0)])
def test_a_small_form_draws_nearly_the_images_of_the_checkpoint_at_every_batch_size(
    form: str, levels: float, exported: Path, generator: Generator
) -> None:
    run = get_format(form).load((exported / FILES[form]).read_bytes())
    with torch.inference_mode():
        for n in (1, 2, 7, 64):
            inputs = example_inputs(generator, n, seed=n)
            difference = 255 * (run(*inputs) - UnitRangeGenerator(generator)(*inputs))
            assert difference.square().mean().sqrt() <= levels


def test_the_manifest_has_the_scores_of_each_small_form_beside_those_of_float32(
    exported: Path, messages: list[str]
) -> None:
    fields = read_manifest(exported)
    assert set(fields["gates"]) == {FILES[form] for form in SMALL_FORMS} < set(fields["files"])
    for form in SMALL_FORMS:
        result = fields["gates"][FILES[form]]
        assert result["fd"] == pytest.approx(result["fd_fp32"] * (1 + result["fd_growth"]))
        assert result["fd_growth"] <= 0.05
        assert abs(result["label_accuracy"] - result["label_accuracy_fp32"]) <= 0.02
        assert result["size_ratio"] <= SIZES[form]
        (message,) = [text for text in messages if text.startswith(FILES[form])]
        assert f"{result['speedup']:.2f} × the speed" in message
        assert f"{result['fd']:.4g}" in message


def test_int8_arithmetic_is_in_the_layers_with_much_work_and_its_weights_have_7_bits(exported: Path) -> None:
    model = onnx.load(exported / "generator.int8.onnx")
    producers = {name: node for node in model.graph.node for name in node.output}
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kinds = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = producers[node.input[1]]
            kinds[node.name] = node.op_type, weight.op_type
            assert tensors[weight.input[0]].dtype == np.int8 if weight.op_type == "DequantizeLinear" else True
            if weight.op_type == "DequantizeLinear":
                assert np.abs(tensors[weight.input[0]]).max() <= 64
    assert {kind for op, kind in kinds.values() if op == "Conv"} == {"DequantizeLinear"}
    assert {kind for op, kind in kinds.values() if op == "Gemm"} == {"DequantizeLinear", "Mul"}


def test_a_generator_without_layers_for_int8_is_refused() -> None:
    class Transposed(Generator):
        def __init__(self) -> None:
            super().__init__(8, None, ImageShape(1, 16, 16))
            self.up = torch.nn.ConvTranspose2d(8, 1, 16)

        def forward(self, z: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
            images: torch.Tensor = self.up(z[:, :, None, None]).tanh()
            return images

    with pytest.raises(ExportError, match="--quantize int8: found no convolution or dense layer"):
        get_format("onnx-int8").write(Transposed().eval(), {})


def test_weights_are_rounded_to_127_steps_of_each_row() -> None:
    weight = np.array([[1.0, -0.5, 0.0], [254.0, 2.9, 3.1], [0.0, 0.0, 0.0]], np.float32)
    scale, values = quantize_rows(weight)
    assert values.tolist() == [[127, -64, 0], [127, 1, 2], [0, 0, 0]]
    np.testing.assert_allclose(scale * values, weight, atol=1.0)


def damage(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the writer of a form write a generator that draws negatives."""
    write = get_format(form).write

    def negative(generator: Any, metadata: Any) -> bytes:
        negated = copy.deepcopy(generator)
        last = [layer for layer in negated.net if isinstance(layer, torch.nn.Conv2d)][-1]
        last.load_state_dict({name: -value for name, value in last.state_dict().items()})
        return write(negated, metadata)

    monkeypatch.setattr(get_format(form), "write", negative)


def test_a_form_with_a_larger_frechet_distance_is_refused_with_its_figures_and_nothing_is_left(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage("onnx-fp16", monkeypatch)
    with pytest.raises(
        GateError, match=r"generator\.fp16\.onnx: .*Fréchet .*\d %|\d%.* expected at most \+5%"
    ) as error:
        export(small_run, out=tmp_path / "export", formats=(), small_forms=["onnx-fp16"])
    assert error.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_a_form_whose_labels_are_misread_is_refused(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage("onnx-fp16", monkeypatch)
    monkeypatch.setattr(gate, "MAX_FD_GROWTH", float("inf"))
    with pytest.raises(GateError, match=r"label accuracy is \d.* in float32, expected at most 0\.3 points less"):
        export(small_run, out=tmp_path / "export", formats=(), small_forms=["onnx-fp16"])


def test_the_archive_of_a_missing_form_is_refused_with_the_flag_that_writes_it(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"generator\.ts"):
        package(exported, tmp_path, "torchscript")
    (tmp_path / "export").mkdir()
    fields = read_manifest(exported)
    del fields["files"]["generator.int8.onnx"]
    for name in fields["files"]:
        (tmp_path / "export" / name).write_bytes((exported / name).read_bytes())
    (tmp_path / "export/manifest.json").write_text(json.dumps(fields))
    with pytest.raises(PackageError, match=r"generator\.int8\.onnx.*--quantize int8"):
        package(tmp_path / "export", tmp_path, "onnx-int8")
