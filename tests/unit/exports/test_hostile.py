"""A hostile or damaged export is refused before anything of it is loaded, with the reason; `inspect` names changes."""

import io
import json
import os
import pickle
import shutil
import time
import zipfile
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
from ganctl.exports.runtime import open_export
from ganctl.exports.untrusted import check_file
from ganctl.manifest import SCHEMA, read_manifest
from tests.conftest import Ganctl, one_object
from tests.unit.serving.small_export import entry


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
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", None])
    graph = helper.make_graph(nodes, "g", [z], [image], initializers or [])
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return content


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
        (huge, r"a tensor of [\d,]+ values"),
        (many_nodes, "over 100,000 nodes"),
        (external, "another file|external"),
        (lambda: model([helper.make_node("Steal", ["z"], ["image"], domain="com.evil")]), r"com\.evil|Steal"),
        (lambda: b"not a model", "no valid ONNX"),
        (lambda: pickle.dumps([1]), "no valid ONNX"),
    ],
)
def test_a_hostile_onnx_file_is_refused_quickly_before_it_is_loaded(content: Callable[[], bytes], reason: str) -> None:
    hostile, start = content(), time.monotonic()
    with pytest.raises(ExportError, match=rf"generator\.onnx: .*({reason})"):
        check_file("generator.onnx", hostile)
    assert time.monotonic() - start < 10


def test_every_cut_of_an_onnx_file_is_refused(exported: Path) -> None:
    content = (exported / "generator.onnx").read_bytes()
    for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999):
        with pytest.raises(ExportError, match="no valid ONNX"):
            check_file("generator.onnx", content[: int(share * len(content))])


class Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def with_foreign_pickle(content: bytes, command: str) -> bytes:
    """Replaces the sample inputs of a PT2 file by a pickle that runs a command."""
    buffer = io.BytesIO()
    hostile = io.BytesIO()
    torch.save(Exploit(command), hostile)
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, hostile.getvalue() if name.endswith(".pt") else old.read(name))
    return buffer.getvalue()


def test_a_foreign_pickle_in_a_pt2_file_is_refused_and_not_run(copied: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    content = with_foreign_pickle((copied / "generator.pt2").read_bytes(), f"touch {victim}")
    replace(copied, "generator.pt2", content)
    change(copied, lambda fields: [fields["files"].pop(name) for name in ("generator.onnx", "generator.ts")])
    with pytest.raises(ExportError, match=r"generator\.pt2: found a pickle"):
        open_export(copied)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["generator.ts", "generator.pt2"])
def test_a_pickle_in_place_of_a_model_file_is_refused_and_not_run(name: str, copied: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    others = {"generator.onnx", "generator.ts", "generator.pt2"} - {name}
    change(copied, lambda fields: [fields["files"].pop(other) for other in others])
    for content in (pickle.dumps(Exploit(f"touch {victim}")), _saved(Exploit(f"touch {victim}"))):
        replace(copied, name, content)
        with pytest.raises(ExportError, match=rf"{name}: (is no valid|found) .*kind"):
            open_export(copied)
    assert not victim.exists()


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_files_of_an_export_pass(exported: Path) -> None:
    for name in ("generator.onnx", "generator.ts", "generator.pt2"):
        check_file(name, (exported / name).read_bytes())


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
