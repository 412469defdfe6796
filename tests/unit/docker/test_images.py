"""The images contain every package that serving imports, at locked versions."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Imported names that differ from the names of their distributions.
DISTRIBUTIONS = {
    "prometheus_client": "prometheus-client",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "ts": "torchserve",
    "model_archiver": "torch-model-archiver",
}


def serve_packages() -> set[str]:
    lines = (ROOT / "docker" / "serve-packages.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


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


def test_the_serving_image_has_all_imports_of_serving_except_torch() -> None:
    """torch would be nine tenths of the image, and only TorchScript archives need it."""
    files = [
        *(ROOT / "ganctl").glob("*.py"),
        *(f for f in (ROOT / "serving").rglob("*.py") if not imported_by(f) & {"ganctl.training"}),
    ]
    needed = {DISTRIBUTIONS.get(name, name) for file in files for name in imported_by(file)}
    needed = {name for name in needed if name.partition(".")[0] != "ganctl"}
    assert needed - {"torch"} <= serve_packages()


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
