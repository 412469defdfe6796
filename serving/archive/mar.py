"""Packs a verified export into a TorchServe archive, and says what is in one.

An archive holds the model file of one back-end, the export's manifest, a model-config.yaml, and the handler's code as
the folder `ganctl_handler`; nothing of this project has to be installed where it is served.
"""

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml

from ganctl import __version__
from ganctl.files import naming, read_file, write_file
from ganctl.serving.archive.integrity import DIGESTS, UNREADABLE, digest_list, verify
from ganctl.serving.errors import PackageError
from ganctl.serving.handler.model import Limits, Model

MODEL_NAME = "digits"

BackendName = Literal["onnx", "torchscript"]

_MODEL_FILES: dict[BackendName, str] = {"onnx": "generator.onnx", "torchscript": "generator.ts"}
_HANDLER = Path(__file__).parents[1] / "handler"
_CONFIG_NAME = "model-config.yaml"

# TorchServe imports the entry by name from the archive's root. It must stay this thin: an ImportError in here would be
# taken for "no such file", and TorchServe would look for a handler of its own with this name.
_ENTRY_NAME = "ganctl_entry.py"
_ENTRY = "from ganctl_handler.service import handle  # noqa: F401 - TorchServe calls it\n"

_CONFIG = """\
# How TorchServe runs this model. The number of workers is the server's matter, not the archive's.
batchSize: 64        # requests answered by one pass through the generator
maxBatchDelay: 1     # milliseconds that a request waits for company; 0 would mean TorchServe's default, 100
responseTimeout: 30  # seconds
startupTimeout: 120  # seconds; importing torch takes long on a slow disk
deviceType: cpu
handler:
"""


def package(export_dir: Path, out: Path | None = None, backend: BackendName = "onnx") -> Path:
    """Writes `digits.mar` into the folder `out` (default: beside the export) and gives its path.

    The file appears whole or not at all, and replaces an older one. Raises PackageError where the export is missing,
    damaged, or lacks the file of `backend`.
    """
    export_dir = export_dir.absolute()
    manifest = read_export(export_dir)
    model_file = _MODEL_FILES[backend]
    if model_file not in manifest["files"]:
        found = ", ".join(manifest["files"])
        raise PackageError(
            f"{export_dir}: holds no {model_file}, which --backend {backend} needs, but {found}. "
            "Export again with that format, or choose the other back-end."
        )
    mar = (out or export_dir.parent).absolute() / f"{MODEL_NAME}.mar"
    write_file(mar, _zip(_members(export_dir, backend)))
    return mar


def read_export(export_dir: Path) -> dict[str, Any]:
    """The manifest of a whole export: every file that it lists is there and has its size and SHA-256."""
    path = export_dir / "manifest.json"
    if not path.is_file():
        raise PackageError(
            f"{export_dir}: is no export, as it has no manifest.json. Name the folder that `ganctl export` wrote."
        )
    manifest = _manifest(read_file(path), str(path))
    for name, entry in manifest["files"].items():
        file = export_dir / name
        if not file.is_file():
            raise PackageError(f"{file}: is missing, though manifest.json lists it. Export again.")
        if file.stat().st_size != entry["bytes"] or _sha256(file) != entry["sha256"]:
            raise PackageError(f"{file}: is damaged: it is not the file that manifest.json describes. Export again.")
    return manifest


def describe(mar: Path) -> dict[str, Any]:
    """What an archive is, for `ganctl inspect`. Reads it whole; PackageError where it is damaged or foreign."""
    if not mar.is_file():
        raise PackageError(f"{mar}: no such archive. `ganctl package EXPORT_DIR` makes one.")
    sha256 = _sha256(mar)  # first: zipfile takes a file that cannot be read for a foreign one
    try:
        with naming(mar), zipfile.ZipFile(mar) as archive:
            verify(archive, str(mar))
            torchserve = json.loads(archive.read("MAR-INF/MANIFEST.json"))
            manifest = _manifest(archive.read("manifest.json"), f"{mar}, manifest.json")
            config = _settings(archive.read(_CONFIG_NAME))
            model_file = config["handler"]["model_file"]
            digest = hashlib.sha256(archive.read(model_file)).hexdigest()
            name = torchserve["model"]["modelName"]
    except (*UNREADABLE, KeyError, TypeError, yaml.YAMLError) as error:
        raise PackageError(
            f"{mar}: is no archive of `ganctl package`, or a damaged one ({error}). Package the export again."
        ) from error
    if digest != manifest["files"].get(model_file, {}).get("sha256"):
        raise PackageError(f"{mar}: {model_file} in it is not the file that its manifest describes. Package again.")
    shown = ("model_version", "preset", "data", "conditional", "class_names", "z", "image", "checkpoint", "versions")
    return {
        "kind": "archive",
        "path": str(mar.absolute()),
        "model_name": name,
        "backend": config["handler"]["backend"],
        "model_file": model_file,
        "bytes": mar.stat().st_size,
        "sha256": sha256,
        **{key: manifest.get(key) for key in ("ganctl_version", *shown)},
        "config": config,
    }


def _manifest(data: bytes, where: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise PackageError(f"{where}: {error}. Export again.") from error
    try:
        Model.from_manifest(manifest)
    except ValueError as error:
        version = manifest.get("ganctl_version") if isinstance(manifest, dict) else __version__
        writer = "a ganctl before 0.2.0" if version is None else f"ganctl {version}"
        versions = "" if version == __version__ else f"written by {writer}, this is ganctl {__version__}: "
        raise PackageError(f"{where}: {versions}{error}. Export again.") from error
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise PackageError(f"{where}: files: must give bytes and sha256 for every file's name. Export again.")
    return manifest


def _settings(text: bytes) -> Any:
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError(f"{_CONFIG_NAME} repeats parts of itself")  # a few lines of which can stand for gigabytes
    return yaml.safe_load(text)


def _is_entry(name: str, entry: object) -> bool:
    plain = Path(name).name == name  # a name with a folder in it could point anywhere
    return (
        plain
        and isinstance(entry, Mapping)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("sha256"), str)
    )


def _members(export_dir: Path, backend: BackendName) -> dict[str, bytes]:
    """The files of an archive by name, as torch-model-archiver lays them out."""
    model_file = _MODEL_FILES[backend]
    handler = {"ganctl_version": __version__, "backend": backend, "model_file": model_file, **asdict(Limits())}
    lines = [f"  {key}: {value}\n" for key, value in handler.items()]
    lines.append("  page: true  # answer a browser with a page; the environment's GANCTL_PAGE=off has none anywhere\n")
    model = {"modelName": MODEL_NAME, "serializedFile": model_file, "handler": _ENTRY_NAME, "modelVersion": "1.0"}
    about = {
        "runtime": "python",
        "model": model | {"configFile": _CONFIG_NAME},
        "archiverVersion": f"ganctl {__version__}",
    }
    return {
        "MAR-INF/MANIFEST.json": json.dumps(about, indent=2).encode(),
        _CONFIG_NAME: (_CONFIG + "".join(lines)).encode(),
        _ENTRY_NAME: _ENTRY.encode(),
        "manifest.json": read_file(export_dir / "manifest.json"),
        model_file: read_file(export_dir / model_file),
        **{
            f"ganctl_handler/{path.relative_to(_HANDLER).as_posix()}": read_file(path)
            for path in sorted((*_HANDLER.glob("*.*"), *_HANDLER.glob("common/*.*")))
        },
    }


def _zip(members: Mapping[str, bytes]) -> bytes:
    """An archive of the members and their digests; the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, DIGESTS: digest_list(members)}.items():
            entry = zipfile.ZipInfo(name)  # with the first date that a zip file can have
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _sha256(path: Path) -> str:
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
