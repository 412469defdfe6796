"""`ganctl package`: only a whole export becomes an archive, and the archive needs nothing of this project."""

import json
import os
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
from tests.unit.serving.small_export import entry


@pytest.fixture
def copy(export: Path, tmp_path: Path) -> Path:
    """An export of its own, to be damaged."""
    return Path(shutil.copytree(export, tmp_path / "mine" / "export"))


def change(export: Path, **values: Any) -> None:
    path = export / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_archive_says_what_it_is(export: Path, tmp_path: Path) -> None:
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


def test_it_lies_beside_the_export_and_replaces_an_older_one(copy: Path) -> None:
    first = package(copy)
    assert first.parent == copy.parent
    assert describe_archive(package(copy, backend="torchscript"))["model_file"] == "generator.ts"
    assert sorted(path.name for path in copy.parent.iterdir()) == ["digits.mar", "export"]


def test_folders_with_commas_wildcards_and_spaces_are_no_trouble(export: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(export, tmp_path / "a, [b]* c" / "ex port"))
    assert describe_archive(package(odd))["model_name"] == "digits"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: shutil.rmtree(folder), "no manifest.json"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: Expecting"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "must be a JSON object"),
        (lambda folder: change(folder, schema_version=2), "schema_version: must be 1"),
        (lambda folder: change(folder, inputs=["z"]), "inputs: must be"),
        (lambda folder: change(folder, z={"dim": 0, "distribution": "normal"}), "z.dim: must be a positive"),
        (lambda folder: change(folder, z={"dim": 8, "distribution": "uniform"}), "z.distribution"),
        (lambda folder: change(folder, class_names=["1", "1"]), "class_names"),
        (lambda folder: change(folder, image=None), "image.channels"),
        (lambda folder: change(folder, files={}), "holds no generator.onnx"),
        (lambda folder: change(folder, files={"../x": entry(b"")}), "files: must give"),
        (lambda folder: change(folder, files={"generator.onnx": {}}), "files: must give"),
        (lambda folder: (folder / "generator.onnx").unlink(), "generator.onnx: is missing"),
        (lambda folder: (folder / "generator.ts").unlink(), "generator.ts: is missing"),
        (lambda folder: (folder / "generator.onnx").write_bytes(b"short"), "generator.onnx: is damaged"),
        (lambda folder: flip(folder / "generator.onnx"), "generator.onnx: is damaged"),
    ],
)
def test_a_faulty_export_is_refused_by_name_and_leaves_nothing(
    copy: Path, damage: Callable[[Path], Any], told: str
) -> None:
    damage(copy)
    with pytest.raises(PackageError, match=told.replace(".", r"\.")) as caught:
        package(copy)
    assert str(copy) in str(caught.value)
    assert caught.value.exit_code == 4
    assert [path.name for path in copy.parent.iterdir()] in (["export"], [])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_class_names_that_an_editor_saved_in_its_encoding_are_served(encoding: str, copy: Path, tmp_path: Path) -> None:
    names = ["zéro", "一", *"23456789"]
    change(copy, class_names=names)
    path = copy / "manifest.json"
    path.write_bytes(path.read_text().encode(encoding))
    assert read_export(copy)["class_names"] == names
    with zipfile.ZipFile(package(copy, tmp_path, "onnx")) as archive:
        archive.extractall(tmp_path / "model")
    served = Service.load(tmp_path / "model", {"backend": "onnx", "model_file": "generator.onnx"})
    assert served.model.class_names == tuple(names)


def test_it_is_laid_out_as_torch_model_archiver_lays_out_the_same_files(copy: Path, tmp_path: Path) -> None:
    mar = package(copy)
    with zipfile.ZipFile(mar) as archive:
        archive.extractall(tmp_path / "unpacked")
        ours, names = json.loads(archive.read("MAR-INF/MANIFEST.json")), {*archive.namelist()}
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
        theirs = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        assert {name for name in archive.namelist() if not name.endswith("/")} == names
    assert (ours["runtime"], ours["model"]) == (theirs["runtime"], theirs["model"])


def test_the_same_export_gives_the_same_bytes(copy: Path, tmp_path: Path) -> None:
    assert package(copy).read_bytes() == package(copy, tmp_path / "other").read_bytes()


def test_a_damaged_or_foreign_archive_is_refused(export: Path, tmp_path: Path) -> None:
    mar = package(export, tmp_path)
    whole = mar.read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"no archive at all")):
        (tmp_path / f"{name}.mar").write_bytes(content)
        with pytest.raises(PackageError, match=f"{name}.mar"):
            describe_archive(tmp_path / f"{name}.mar")
    with pytest.raises(PackageError, match="no such archive"):
        describe_archive(tmp_path / "absent.mar")
    with zipfile.ZipFile(tmp_path / "foreign.mar", "w") as foreign:
        foreign.writestr("MAR-INF/MANIFEST.json", "{}")
    with pytest.raises(PackageError, match="expected an archive of `ganctl package`"):
        describe_archive(tmp_path / "foreign.mar")


def test_a_model_that_is_not_the_manifests_is_found(export: Path, tmp_path: Path) -> None:
    other = rewrite(package(export, tmp_path), {"generator.onnx": b"another model"}, sealed=True)
    with pytest.raises(PackageError, match="not the file that its manifest describes"):
        describe_archive(other)


ALONE = """
import sys

class Nothing:  # of this project, nor of what it needs elsewhere
    def find_spec(self, name, path=None, target=None):
        forbidden = "ganctl serving training exports click httpx pydantic yaml ts onnx"
        if name.split(".")[0] in forbidden.split():
            raise AssertionError(f"the handler imports {name}")

sys.meta_path.insert(0, Nothing())
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


@pytest.mark.parametrize(("backend", "file"), [("onnx", "generator.onnx"), ("torchscript", "generator.ts")])
def test_the_archive_runs_where_this_project_is_not_installed(
    export: Path, service: Service, tmp_path: Path, backend: Any, file: str
) -> None:
    with zipfile.ZipFile(package(export, tmp_path, backend)) as archive:
        archive.extractall(tmp_path / "model")
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path / "model"), backend, file]
    (tmp_path / "t").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["TMPDIR"] = str(tmp_path / "t")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == service.answer([({"body": b'{"digits": 7, "seed": 3}'}, {})])[0].body
    assert list((tmp_path / "t").iterdir()) == [], "ONNX Runtime's telemetry would leave its session here"
