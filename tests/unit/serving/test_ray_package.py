"""`ganctl package --for ray` writes a folder that Ray Serve runs without ganctl; test_ray.py runs it for real."""

import ast
import hashlib
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ganctl.serving.cli.package import package as command
from ganctl.serving.errors import PackageError
from ganctl.serving.hosts.ray.package import RAY_VERSION, package
from tests.unit.serving.small_export import write_export

REQUIRED = {"numpy", "onnxruntime", "torch", "PIL", "yaml", "ray", "starlette"}  # starlette: of ray[serve]


@pytest.fixture(scope="module")
def folder(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed folder; read-only."""
    return package(export, tmp_path_factory.mktemp("ray"))


def test_the_code_imports_only_requirements_and_modules_of_the_folder(folder: Path) -> None:
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                is_here = (folder / name.replace(".", "/")).with_suffix(".py").is_file()
                assert is_here or top in REQUIRED | sys.stdlib_module_names, (file, name)


def test_the_folder_has_the_model_and_digests_of_all_files(folder: Path, export: Path) -> None:
    assert (folder / "generator.onnx").read_bytes() == (export / "generator.onnx").read_bytes()
    digests = json.loads((folder / "digests.json").read_bytes())
    files = {path for path in folder.rglob("*") if path.is_file() and path.name != "digests.json"}
    assert {folder / name for name in digests} == files
    for name, digest in digests.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(("backend", "runtime"), [("onnx", "onnxruntime"), ("torchscript", "torch")])
def test_the_requirements_are_the_installed_versions(export: Path, tmp_path: Path, backend: str, runtime: str) -> None:
    arguments = [str(export), "--for", "ray", "--backend", backend, "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    record = json.loads(done.stdout)
    assert (record["kind"], record["path"]) == ("ray", str(tmp_path / "digits-ray"))
    pins = [f"{name}=={version(name)}" for name in ("numpy", runtime, "pillow", "pyyaml")]
    assert (tmp_path / "digits-ray" / "requirements.txt").read_text().split() == [*pins, f"ray[serve]=={RAY_VERSION}"]


def test_the_config_names_the_folder_and_differs_between_models(export: Path, tmp_path: Path) -> None:
    def environment(export: Path) -> dict[str, str]:
        folder = package(export, tmp_path / 'a: "b" #c')
        config = yaml.safe_load((folder / "config.yaml").read_bytes())
        (application,) = config["applications"]
        assert application["runtime_env"]["working_dir"] == f"local://{folder}"
        assert application["import_path"] == "application:app"
        result: dict[str, str] = application["runtime_env"]["env_vars"]
        return result

    first, second = environment(export), environment(export)
    other = environment(write_export(tmp_path / "export", model_version="0123456789ab"))
    assert first == second
    assert first["GANCTL_PACKAGE"] != other["GANCTL_PACKAGE"]


def test_the_ray_service_runs_the_same_config_in_the_image(folder: Path) -> None:
    service = yaml.safe_load((folder / "rayservice.yaml").read_bytes())
    config = yaml.safe_load((folder / "config.yaml").read_bytes())
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == RAY_VERSION
    config["http_options"]["host"] = "0.0.0.0"
    config["applications"][0]["runtime_env"]["working_dir"] = "local:///home/ray/digits-ray"
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == config
    image = (folder / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{RAY_VERSION}-py{sys.version_info.major}{sys.version_info.minor}\n" in image
    assert "COPY . /home/ray/digits-ray\n" in image


def test_an_older_folder_is_replaced_and_another_one_is_left_alone(export: Path, tmp_path: Path) -> None:
    folder = package(export, tmp_path)
    (folder / "__pycache__").mkdir()
    assert package(export, tmp_path) == folder
    assert not (folder / "__pycache__").exists()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(PackageError, match=r"digits-ray: found something else .* Name another --out\."):
        package(export, tmp_path)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_the_command_says_how_to_run_the_folder(export: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(export), "--for", "ray", "--out", str(tmp_path)], catch_exceptions=False)
    assert f"Next: serve run {tmp_path / 'digits-ray' / 'config.yaml'}" in done.stdout
