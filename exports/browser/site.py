"""Writes the static folder of the page: its files, the runtime, the model and the manifest."""

import gzip
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ganctl.exports.browser.onnxruntime_web import VERSION
from ganctl.exports.model_card.data_sets import data_set
from ganctl.files import read_file, write_file
from ganctl.manifest import NAME

FOLDER = "browser"  # in the export folder
# Model files in order of preference. Float16 halves the file; pictures differ by two gray levels at most.
_MODELS = ("generator.fp16.onnx", "generator.onnx")
_PAGE = Path(__file__).parent / "page"


def preferred_model(files: Collection[str]) -> str:
    """Returns the file name of the model for the page, among the files of an export, which include generator.onnx."""
    return next(name for name in _MODELS if name in files)


def is_site(path: Path) -> bool:
    """Returns whether a path is a folder that `write_site` wrote, without files of others."""
    if path.name != FOLDER or not (path / NAME).is_file():
        return False
    try:
        entry = json.loads(read_file(path / NAME))[FOLDER]
        model = entry["model"]
    except (ValueError, LookupError, TypeError):
        return False
    own = {NAME, "runtime", f"{model}.gz", *(file.name for file in _PAGE.iterdir())}
    return {file.name for file in path.iterdir()} <= own


def write_site(folder: Path, fields: Mapping[str, Any], model: Path, runtime: Mapping[str, bytes]) -> int:
    """Writes the page for a generator into `folder`.

    The large files are compressed here, because many servers of static files do not compress. The scripts end in .js:
    not every server knows that .mjs is JavaScript.

    Args:
        folder: the new folder.
        fields: the manifest of the export.
        model: the ONNX file. It takes and returns the arrays that the manifest describes.
        runtime: the result of `fetch_runtime`.

    Returns:
        The bytes that a browser downloads.
    """
    for path in sorted(_PAGE.iterdir()):
        write_file(folder / path.name, read_file(path))
    large = {model.name: read_file(model)}
    for name, content in runtime.items():
        if name.endswith(".mjs"):
            write_file(folder / "runtime" / name.replace(".mjs", ".js"), content)
        else:
            large[f"runtime/{name}"] = content
    for name, content in large.items():
        write_file(folder / f"{name}.gz", gzip.compress(content, mtime=0))
    progress = sum((folder / f"{name}.gz").stat().st_size for name in large)
    entry = {"model": model.name, "runtime": VERSION, "bytes": progress, **data_set(fields)._asdict()}
    write_file(folder / NAME, json.dumps({**fields, FOLDER: entry}, indent=2, ensure_ascii=False) + "\n")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
