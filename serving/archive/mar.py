"""Packs a verified export into a TorchServe archive and reads an archive's description.

An archive holds the model file of one backend, the export's manifest, a model-config.yaml, and the handler's code as
the folder `ganctl_handler`. The serving machine does not need ganctl.
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
from ganctl.files import read_file, write_file
from ganctl.manifest import MEASURED, NAME, parse_manifest, read_manifest
from ganctl.serving.archive.integrity import DIGESTS, digest_list, read_archive
from ganctl.serving.errors import PackageError
from ganctl.serving.handler.model import Limits

MODEL_NAME = "digits"

BackendName = Literal["onnx", "onnx-fp16", "onnx-int8", "torchscript"]

_MODEL_FILES: dict[BackendName, str] = {
    "onnx": "generator.onnx",
    "onnx-fp16": "generator.fp16.onnx",
    "onnx-int8": "generator.int8.onnx",
    "torchscript": "generator.ts",
}
_MISSING = {"onnx-fp16": "--precision fp16", "onnx-int8": "--quantize int8"}  # flags of export that write the file
_MAX_DEPTH = 10  # of the settings in an archive: the parser's time grows with the square of the depth
_HANDLER = Path(__file__).parents[1] / "handler"
_CONFIG_NAME = "model-config.yaml"
_DESCRIPTION = (  # keys of the manifest that are part of an archive's description
    "ganctl_version", "model_version", "preset", "data", "conditional", "class_names", "z", "image", "checkpoint",
    "license", "attribution", "versions",
)  # fmt: skip

# TorchServe imports this module by name from the archive's root. It takes an ImportError for "no such file" and then
# looks for a built-in handler of this name, so the module must contain nothing else.
_ENTRY_NAME = "ganctl_entry.py"
_ENTRY = """\
from ganctl_handler.service import Service  # the native host uses it
from ganctl_handler.torchserve import handle  # TorchServe calls it
"""

_CONFIG = """\
# TorchServe settings of this model. The number of workers is set by the server, not by the archive.
batchSize: 64        # largest number of requests in a batch
maxBatchDelay: 1     # milliseconds that a request waits for others; 0 would mean TorchServe's default, 100
responseTimeout: 30  # seconds
startupTimeout: 120  # seconds; importing torch takes long on a slow disk
deviceType: cpu
handler:
"""


def package(export_dir: Path, out: Path | None = None, backend: BackendName = "onnx") -> Path:
    """Write `digits.mar`, atomically; an older one is replaced.

    Args:
        export_dir: the folder that `ganctl export` wrote.
        out: the folder for the archive (default: the export's parent).
        backend: selects the model file.

    Returns:
        The archive's path.

    Raises:
        PackageError: the export is missing, damaged, or lacks the file of `backend`.
    """
    export_dir = export_dir.absolute()
    mar = (out or export_dir.parent).absolute() / f"{MODEL_NAME}.mar"
    write_file(mar, _zip(_torchserve_members(backend) | model_members(export_dir, backend)))
    return mar


def model_members(export_dir: Path, backend: BackendName) -> dict[str, bytes]:
    """The files that `Service.load` needs and the handler's code, by name below the folder that holds them.

    Raises:
        PackageError: as for `package`.
    """
    manifest = read_export(export_dir)
    model_file = _MODEL_FILES[backend]
    if model_file not in manifest["files"]:
        found = ", ".join(manifest["files"])
        remedy = f"with {_MISSING[backend]}" if backend in _MISSING else "that format"
        raise PackageError(
            f"{export_dir}: holds no {model_file}, found {found}. Export {remedy}, or choose another --backend."
        )
    # equal model files give equal archives: neither other files of the export nor measurements are copied
    facts = {key: value for key, value in manifest.items() if key not in MEASURED}
    facts["files"] = {model_file: manifest["files"][model_file]}
    settings = {"ganctl_version": __version__, "backend": backend, "model_file": model_file, **asdict(Limits())}
    lines = [f"  {key}: {value}\n" for key, value in settings.items()]
    lines.append("  page: true  # serve the page for browsers; the variable GANCTL_PAGE=off disables it\n")
    return {
        _CONFIG_NAME: (_CONFIG + "".join(lines)).encode(),
        NAME: json.dumps(facts, indent=2, ensure_ascii=False).encode(),
        model_file: read_file(export_dir / model_file),
        **{
            f"ganctl_handler/{path.relative_to(_HANDLER).as_posix()}": read_file(path)
            for path in sorted((*_HANDLER.glob("*.*"), *_HANDLER.glob("common/*.*")))
        },
    }


def read_export(export_dir: Path) -> dict[str, Any]:
    """Read the manifest of an export and verify the SHA-256 of each file that it lists.

    Raises:
        PackageError: the manifest is missing or invalid, or a file is missing or damaged.
    """
    return read_manifest(export_dir, PackageError)


def describe_archive(mar: Path) -> dict[str, Any]:
    """Verify an archive and return its description, as `ganctl inspect` prints it.

    Raises:
        PackageError: the archive is absent, damaged, or not made by `ganctl package`.
    """
    members, sha256 = read_archive(mar)
    facts = {"kind": "archive", "path": str(mar.absolute()), "bytes": mar.stat().st_size, "sha256": sha256}
    return facts | describe_members(members, mar)


def describe_members(members: Mapping[str, bytes], mar: Path) -> dict[str, Any]:
    """Return what the verified members of the archive `mar` say about its model.

    Raises:
        PackageError: as for `describe_archive`.
    """
    try:
        manifest = parse_manifest(members[NAME], f"{mar}, {NAME}", PackageError)
        config = _parse_config(members[_CONFIG_NAME])
        backend, model_file = config["handler"]["backend"], config["handler"]["model_file"]
        digest = hashlib.sha256(members[model_file]).hexdigest()
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise PackageError(f"{mar}: is not an archive of `ganctl package` ({error}). Package again.") from error
    if digest != manifest["files"].get(model_file, {}).get("sha256"):
        raise PackageError(f"{mar}: {model_file} in it is not the file that its manifest describes. Package again.")
    described = {key: manifest.get(key) for key in _DESCRIPTION}
    return {"model_name": MODEL_NAME, "backend": backend, "model_file": model_file, **described, "config": config}


def _parse_config(text: bytes) -> Any:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):  # a few nested aliases can expand to gigabytes
            raise ValueError(f"{_CONFIG_NAME} contains YAML aliases")  # noqa: TRY004  # the archive is invalid, not a type
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"{_CONFIG_NAME} is nested more than {_MAX_DEPTH} times")
    return yaml.safe_load(text)


def _torchserve_members(backend: BackendName) -> dict[str, bytes]:
    """The members that TorchServe reads before the handler, in the layout of torch-model-archiver."""
    model_file = _MODEL_FILES[backend]
    model = {"modelName": MODEL_NAME, "serializedFile": model_file, "handler": _ENTRY_NAME, "modelVersion": "1.0"}
    manifest = {
        "runtime": "python",
        "model": model | {"configFile": _CONFIG_NAME},
        "archiverVersion": f"ganctl {__version__}",
    }
    return {"MAR-INF/MANIFEST.json": json.dumps(manifest, indent=2).encode(), _ENTRY_NAME: _ENTRY.encode()}


def _zip(members: Mapping[str, bytes]) -> bytes:
    """A zip file of the members and their digests, as bytes; equal members give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**members, DIGESTS: digest_list(members)}.items():
            entry = zipfile.ZipInfo(name)  # its default date, 1980-01-01, is constant
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
