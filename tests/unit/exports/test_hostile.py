"""A hostile or damaged export is refused before anything of it is loaded, with the reason; `inspect` names changes."""

import importlib.util
import io
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ganctl.exports import manifest
from ganctl.exports.errors import ExportError
from ganctl.exports.export import export
from ganctl.exports.formats import FILES, get_format
from ganctl.exports.formats.base import hide_exporter_warnings
from ganctl.exports.runtime import open_export
from ganctl.exports.untrusted import check_file
from ganctl.manifest import SCHEMA, read_manifest
from ganctl.training.config.resolve import resolve
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_generator
from tests.conftest import Ganctl, one_object
from tests.unit.serving.small_export import entry

MODEL_FILES = {"generator.onnx", "generator.ts", "generator.pt2"}


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_run, out=tmp_path_factory.mktemp("hostile") / "export")


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "export")
    return tmp_path / "export"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads((folder / "manifest.json").read_text())
    edit(fields)
    (folder / "manifest.json").write_text(json.dumps(fields))


def replace(folder: Path, name: str, content: bytes) -> None:
    """Replaces a model file, and its digest in the manifest: the author of a hostile export writes both."""
    (folder / name).write_bytes(content)
    change(folder, lambda fields: fields["files"].update({name: entry(content)}))


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda f: f["files"].update({"../../etc/passwd": {"sha256": "0" * 64}}), "files"),
        (lambda f: f["files"].update({"/etc/passwd": {"sha256": "0" * 64}}), "files"),
        (lambda f: f["files"].update({"..": {"sha256": "0" * 64}}), "files"),
        (lambda f: f["image"].update(height=10**9), r"image\.height"),
        (lambda f: f["z"].update(dim=10**12), r"z\.dim"),
        (lambda f: f["files"]["generator.onnx"].update(sha256="0"), r"sha256"),
        (lambda f: f.update(class_names=["a"] * 200_000), "class_names"),
        (lambda f: f.update(parity={"generator.onnx": {"1": "small"}}), "parity"),
        (lambda f: f.update(model_version="../x"), "model_version"),
        (lambda f: f.update(license=7), "license"),
    ],
)
def test_a_hostile_manifest_is_refused_with_the_name_of_the_field(
    edit: Callable[[dict[str, Any]], object], field: str, copied: Path
) -> None:
    change(copied, edit)
    with pytest.raises(ExportError, match=rf"manifest\.json: ?{field}|manifest\.json:.*{field}"):
        manifest.read(copied)


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b"{" + b" " * (17 << 20), b'{"schema_version": 1e999}', b"\xff\xfe"]
)
def test_a_manifest_that_no_parser_should_read_is_refused(content: bytes, copied: Path) -> None:
    (copied / "manifest.json").write_bytes(content)
    with pytest.raises(ExportError, match=r"manifest\.json"):
        manifest.read(copied)


def test_a_written_manifest_follows_the_published_schema_which_is_valid_itself(exported: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    fields = json.loads((exported / "manifest.json").read_text())
    jsonschema.validate(fields, schema, jsonschema.Draft202012Validator)
    assert fields.keys() <= schema["properties"].keys(), "every field is described"


def test_the_manifest_of_the_pretrained_generator_follows_the_schema() -> None:
    read_manifest(SCHEMA.parent / "pretrained", ExportError)


def loop() -> bytes:
    """A model that runs without an end."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, [])],
    )
    forever = helper.make_node("Loop", ["", ""], [], body=body)
    return model([forever, helper.make_node("Identity", ["z"], ["image"])])


def model(nodes: list[onnx.NodeProto], initializers: list[TensorProto] | None = None) -> bytes:
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "g", [z], [image], initializers or [])
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return content


def sized_at_run_time() -> bytes:
    nodes = [
        helper.make_node("ReduceSum", ["z"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["n"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["n", "axes"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("Identity", ["z"], ["image"]),
    ]
    return model(nodes, [onnx.numpy_helper.from_array(np.array([0]), "axes")])


def external_attribute() -> bytes:
    value = onnx.numpy_helper.from_array(np.zeros((1, 4), np.float32), "v")
    onnx.external_data_helper.set_external_data(value, "secret")
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    constant = helper.make_node("Constant", [], ["c"], value=value)
    return model([constant, helper.make_node("Add", ["z", "c"], ["image"])])


def huge() -> bytes:
    shape = onnx.numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "shape")
    return model([helper.make_node("ConstantOfShape", ["shape"], ["image"])], [shape])


def many_nodes() -> bytes:
    """A graph of a million empty nodes: 2 MB of bytes, gigabytes once decoded."""
    graph = b"\x0a\x00" * 1_000_000
    size, count = b"", len(graph)
    while count > 127:
        size, count = size + bytes([count & 127 | 128]), count >> 7
    return b"\x3a" + size + bytes([count]) + graph


def external() -> bytes:
    weight = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, "../secret")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    return model([helper.make_node("Add", ["z", "w"], ["image"])], [weight])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (loop, "Loop"),
        (huge, r"a tensor of [\d,]+ values|no valid ONNX"),
        (many_nodes, "over 100,000 nodes"),
        (external, "another file"),
        (external_attribute, "another file"),
        (sized_at_run_time, "unknown size"),
        (lambda: model([helper.make_node("Steal", ["z"], ["image"], domain="com.evil")]), r"com\.evil|Steal"),
        (lambda: b"not a model", "no valid ONNX"),
        (lambda: pickle.dumps([1]), "no valid ONNX"),
    ],
)
def test_a_hostile_onnx_file_is_refused_quickly_before_it_is_loaded(content: Callable[[], bytes], reason: str) -> None:
    hostile, start = content(), time.monotonic()
    with pytest.raises(ExportError, match=rf"generator\.onnx: .*({reason})"):
        check_file("generator.onnx", hostile, ["z"])
    assert time.monotonic() - start < 10


def test_every_cut_of_an_onnx_file_is_refused(exported: Path) -> None:
    content = (exported / "generator.onnx").read_bytes()
    for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999):
        with pytest.raises(ExportError, match=r"no valid ONNX|found inputs and outputs \(\[\]"):
            check_file("generator.onnx", content[: int(share * len(content))], ["z", "label"])


class Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def keep(folder: Path, name: str) -> None:
    """Leaves one model file in the manifest."""
    change(folder, lambda fields: [fields["files"].pop(other) for other in MODEL_FILES - {name}])


def test_a_pt2_file_alone_is_refused_because_torch_runs_code_in_it(copied: Path) -> None:
    keep(copied, "generator.pt2")
    with pytest.raises(ExportError, match=r"found generator\.pt2.*expected one of generator\.onnx"):
        open_export(copied)
    with pytest.raises(ExportError, match=r"generator\.pt2: found a PT2 file, which can run code"):
        check_file("generator.pt2", b"", ["z"])


def test_a_pickle_in_place_of_a_torchscript_file_is_refused_and_not_run(copied: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    keep(copied, "generator.ts")
    for content in (pickle.dumps(Exploit(f"touch {victim}")), _saved(Exploit(f"touch {victim}"))):
        replace(copied, "generator.ts", content)
        with pytest.raises(ExportError, match=r"generator\.ts: (is no valid|found) .*(kind|TorchScript)"):
            open_export(copied)
    assert not victim.exists()


def test_a_torchscript_file_with_a_damaged_member_is_refused(exported: Path) -> None:
    content = bytearray((exported / "generator.ts").read_bytes())
    content[content.index(b"class UnitRangeGenerator") + 5] ^= 1  # another checksum
    with pytest.raises(ExportError, match=r"generator\.ts: is no valid TorchScript file"):
        check_file("generator.ts", bytes(content), ["z", "label"])


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


_SCRIPTS = {
    "from_file": "return torch.from_file('/etc/passwd', False, 16)[:1].reshape(1, 1, 1, 1).float()",
    "while": "x = z\n        while bool(x.sum() < 1e30):\n            x = x * 1.0\n        return x",
    "save": "torch.save(z, '/tmp/stolen')\n        return z",
}


@pytest.mark.parametrize("found", _SCRIPTS)
def test_torchscript_that_reads_files_or_loops_is_refused(found: str, copied: Path, tmp_path: Path) -> None:
    source = f"""import torch
class Net(torch.nn.Module):
    def forward(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        {_SCRIPTS[found]}
"""
    (tmp_path / "hostile_net.py").write_text(source)
    spec = importlib.util.spec_from_file_location("hostile_net", tmp_path / "hostile_net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    buffer = io.BytesIO()
    with hide_exporter_warnings():
        torch.jit.save(torch.jit.script(module.Net()), buffer)
    keep(copied, "generator.ts")
    replace(copied, "generator.ts", buffer.getvalue())
    with pytest.raises(ExportError, match=rf"generator\.ts: found .*{found}.*expected the operators of networks"):
        open_export(copied)


@pytest.mark.parametrize(
    ("preset", "form"),
    [("conv", form) for form in FILES if form != "pt2"]
    + [pytest.param("residual", form, marks=pytest.mark.soak) for form in FILES if form not in ("pt2", "onnx-int8")]
    + [("lightning-basic-gan", "onnx")],
)
def test_our_own_files_pass(preset: str, form: str) -> None:
    shape, classes = (ImageShape(4, 32, 32), 3) if preset == "residual" else (ImageShape(1, 28, 28), 10)
    model = resolve(preset=preset, assignments=["model.base_channels=8"])[0].model
    generator = build_generator(model, shape, classes).eval().requires_grad_(False)
    inputs = ["z", "label"] if generator.conditional else ["z"]
    check_file(FILES[form], get_format(form).write(generator, {"a": "b"}), inputs)


def test_a_symbolic_link_in_place_of_a_model_file_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "generator.onnx").rename(tmp_path / "elsewhere.onnx")
    (copied / "generator.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ExportError, match=r"generator\.onnx: is missing or no regular file"):
        manifest.read(copied)


def test_a_long_class_name_of_combining_marks_is_refused_at_once(copied: Path) -> None:
    change(copied, lambda fields: fields.update(class_names=["a\u0301\u0323" * 100_000, *"123456789"]))
    start = time.monotonic()
    with pytest.raises(ExportError, match="class_names"):
        manifest.read(copied)
    assert time.monotonic() - start < 5


def test_a_model_with_other_inputs_than_its_manifest_is_refused(copied: Path) -> None:
    replace(copied, "generator.onnx", model([helper.make_node("Identity", ["z"], ["image"])]))
    with pytest.raises(ExportError, match=r"generator\.onnx: found inputs and outputs .*expected \['z', 'label'\]"):
        open_export(copied)


def test_inspect_names_a_changed_model_file_as_an_error_and_a_changed_card_as_a_note(
    copied: Path, ganctl: Ganctl
) -> None:
    (copied / "card.md").write_text("our own words")
    done = ganctl("inspect", copied, "--json")
    assert done.returncode == 0
    assert one_object(done.stdout)["changed"] == ["card.md"]
    assert "card.md: was changed" in done.stderr
    (copied / "generator.pt2").write_bytes(b"x")
    done = ganctl("inspect", copied)
    assert done.returncode == 4
    assert "generator.pt2" in done.stderr
