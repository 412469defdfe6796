"""`ganctl package` packs only valid exports, and the archive runs without ganctl installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganctl.serving.archive.mar import describe_archive, package, read_export
from ganctl.serving.errors import PackageError
from ganctl.serving.handler.service import Service
from tests.unit.serving.archives import rewrite
from tests.unit.serving.service_calls import json_call, load_service, reply_to
from tests.unit.serving.small_export import MODEL_FILES, entry


@pytest.fixture
def copy(export: Path, tmp_path: Path) -> Path:
    """A copy of the export, alone in its parent folder, which the test may change."""
    return Path(shutil.copytree(export, tmp_path / "parent" / "export"))


def change(export: Path, **values: Any) -> None:
    """Replace values of the manifest."""
    path = export / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_description_of_an_archive_has_the_model_and_the_settings(export: Path, tmp_path: Path) -> None:
    mar = package(export, tmp_path / "out")
    manifest = read_export(export)
    record = describe_archive(mar)
    assert mar == tmp_path / "out" / "digits.mar"
    assert record["kind"] == "archive"
    assert record["model_version"] == manifest["model_version"]
    assert record["backend"] == "onnx"
    assert record["checkpoint"] == manifest["checkpoint"]
    assert record["config"]["batchSize"] == 64
    assert record["config"]["maxBatchDelay"] == 1
    json.dumps(record)


def test_the_description_of_an_archive_has_the_images_and_the_license_and_authors_of_the_training_data(
    copy: Path, tmp_path: Path
) -> None:
    assert describe_archive(package(copy, tmp_path / "none"))["license"] is None
    facts = {"license": "CC-BY-4.0", "attribution": "Ada & Zoë <ada@example.org>"}
    change(copy, **facts)
    record = describe_archive(package(copy, tmp_path / "credited"))
    assert {name: record[name] for name in facts} == facts
    assert record["image"] == {"channels": 1, "height": 28, "width": 28}
    change(copy, license=["MIT"])
    with pytest.raises(PackageError, match=r'manifest\.json: .*\blicense: .*\["MIT"\]'):
        package(copy, tmp_path / "list")


def test_the_archive_is_written_beside_the_export_and_replaces_an_older_one(copy: Path) -> None:
    first = package(copy)
    assert first.parent == copy.parent
    assert describe_archive(package(copy, backend="torchscript"))["model_file"] == "generator.ts"
    assert sorted(path.name for path in copy.parent.iterdir()) == ["digits.mar", "export"]


def test_folder_names_may_have_commas_wildcards_and_spaces(export: Path, tmp_path: Path) -> None:
    special = Path(shutil.copytree(export, tmp_path / "a, [b]* c" / "ex port"))
    assert describe_archive(package(special))["model_name"] == "digits"


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (lambda folder: shutil.rmtree(folder), ["manifest.json", "`ganctl export`"]),
        (lambda folder: (folder / "manifest.json").unlink(), ["manifest.json", "`ganctl export`"]),
        (lambda folder: (folder / "manifest.json").write_text("{"), ["manifest.json:", "line 1 column 2"]),
        (lambda folder: (folder / "manifest.json").write_text("[]"), ["manifest.json:", "found list"]),
        (lambda folder: change(folder, schema_version=2), ["manifest.json:", " schema_version:", "found 2"]),
        (lambda folder: change(folder, inputs=["z"]), ["manifest.json:", " inputs:", '"label"']),
        (lambda folder: change(folder, z={"dim": 0, "distribution": "normal"}), [" z.dim:", "found 0"]),
        (lambda folder: change(folder, z={"dim": 8, "distribution": "uniform"}), [" z.distribution:", '"uniform"']),
        (lambda folder: change(folder, class_names=["1", "1"]), [" class_names:", '["1", "1"]']),
        (lambda folder: change(folder, image=None), [" image.channels:"]),
        (lambda folder: change(folder, files={}), ["generator.onnx", "--backend"]),
        (lambda folder: change(folder, files={"../x": entry(b"")}), [" files:", "sha256"]),
        (lambda folder: change(folder, files={"generator.onnx": {}}), [" files:", "sha256"]),
        (lambda folder: (folder / "generator.onnx").unlink(), ["export/generator.onnx:", "missing"]),
        (lambda folder: (folder / "generator.ts").unlink(), ["export/generator.ts:", "missing"]),
        (lambda folder: (folder / "generator.onnx").write_bytes(b"short"), ["export/generator.onnx:", "SHA-256"]),
        (lambda folder: flip_a_bit(folder / "generator.onnx"), ["export/generator.onnx:", "SHA-256"]),
    ],
)
def test_an_invalid_export_is_an_error_that_names_the_file_and_key_and_nothing_is_written(
    copy: Path, damage: Callable[[Path], Any], facts: list[str]
) -> None:
    damage(copy)
    with pytest.raises(PackageError) as caught:
        package(copy)
    for fact in (str(copy), *facts):
        assert fact in str(caught.value)
    assert caught.value.exit_code == 4
    assert [path.name for path in copy.parent.iterdir()] in (["export"], [])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_class_names_of_a_manifest_in_another_unicode_encoding_are_served(
    encoding: str, copy: Path, tmp_path: Path
) -> None:
    names = ["zéro", "一", *"23456789"]
    change(copy, class_names=names)
    path = copy / "manifest.json"
    path.write_bytes(path.read_text().encode(encoding))
    assert read_export(copy)["class_names"] == names
    with zipfile.ZipFile(package(copy, tmp_path, "onnx")) as archive:
        archive.extractall(tmp_path / "model")
    assert load_service(tmp_path / "model").model.class_names == tuple(names)


def test_the_archive_has_the_layout_of_torch_model_archiver(copy: Path, tmp_path: Path) -> None:
    mar = package(copy)
    with zipfile.ZipFile(mar) as archive:
        archive.extractall(tmp_path / "unpacked")
        manifest, names = json.loads(archive.read("MAR-INF/MANIFEST.json")), {*archive.namelist()}
    for name in ("manifest.json", "digests.json", "ganctl_handler"):
        (tmp_path / "extra").mkdir(exist_ok=True)
        (tmp_path / "unpacked" / name).rename(tmp_path / "extra" / name)
    subprocess.run(
        [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "digits", "--version", "1.0",
         "--serialized-file", "generator.onnx", "--handler", "ganctl_entry.py", "--config-file", "model-config.yaml",
         "--extra-files", str(tmp_path / "extra"), "--export-path", str(tmp_path)],
        cwd=tmp_path / "unpacked", env=os.environ | {"TMPDIR": str(tmp_path)}, check=True,
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "digits.mar") as archive:
        expected = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        assert {name for name in archive.namelist() if not name.endswith("/")} == names
    assert (manifest["runtime"], manifest["model"]) == (expected["runtime"], expected["model"])


def test_the_same_export_gives_the_same_bytes(copy: Path, tmp_path: Path) -> None:
    assert package(copy).read_bytes() == package(copy, tmp_path / "other").read_bytes()


def test_an_absent_damaged_or_foreign_archive_is_an_error_that_names_it(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"not a zip file")):
        (tmp_path / f"{name}.mar").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "foreign.mar", "w") as foreign:
        foreign.writestr("MAR-INF/MANIFEST.json", "{}")
    for name in ("cut", "empty", "text", "foreign", "absent"):
        mar = tmp_path / f"{name}.mar"
        with pytest.raises(PackageError, match=rf"{re.escape(str(mar))}: .*`ganctl package\b") as caught:
            describe_archive(mar)
        assert caught.value.exit_code == 4


def test_a_model_file_that_its_manifest_does_not_describe_is_refused(export: Path, tmp_path: Path) -> None:
    other = rewrite(package(export, tmp_path), {"generator.onnx": b"another model"}, sealed=True)
    with pytest.raises(PackageError, match=rf"{re.escape(str(other))}: generator\.onnx .*manifest"):
        describe_archive(other)


ALONE = """
import sys

class Forbidden:  # packages that a server with the archive need not have
    def find_spec(self, name, path=None, target=None):
        forbidden = "ganctl serving training exports click httpx pydantic yaml ts onnx"
        if name.split(".")[0] in forbidden.split():
            raise AssertionError(f"the handler imports {name}")

sys.meta_path.insert(0, Forbidden())
sys.path.insert(0, sys.argv[1])
from ganctl_entry import handle

class Context:
    system_properties = {"model_dir": sys.argv[1]}
    model_yaml_config = {"handler": {"backend": sys.argv[2], "model_file": sys.argv[3]}}
    status, headers = {}, {}
    def get_all_request_header(self, idx): return {}
    def set_response_status(self, code, phrase, idx): self.status[idx] = code, phrase
    def set_response_header(self, idx, key, value): self.headers[key] = value

assert handle(None, Context()) is None
sys.stdout.buffer.write(handle([{"body": bytearray(b'{"digits": 7, "seed": 3}')}], Context())[0])
assert Context.status == {0: (200, "OK")}
assert Context.headers["X-Seed"] == "3" and Context.headers["X-Model-Version"].isalnum()
"""


@pytest.mark.parametrize("backend", MODEL_FILES)
def test_the_archive_runs_where_ganctl_is_not_installed(
    export: Path, service: Service, tmp_path: Path, backend: Any
) -> None:
    with zipfile.ZipFile(package(export, tmp_path, backend)) as archive:
        archive.extractall(tmp_path / "model")
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path / "model"), backend, MODEL_FILES[backend]]
    (tmp_path / "t").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["TMPDIR"] = str(tmp_path / "t")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == reply_to(service, json_call(digits=7, seed=3)).body
    assert list((tmp_path / "t").iterdir()) == [], "without the file of a session of ONNX Runtime's telemetry"
