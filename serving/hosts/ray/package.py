"""Writes the folder that Ray Serve runs: generator, handler, application, configs and requirements."""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from string import Template
from textwrap import indent
from typing import Any

from ganctl.files import new_folder, read_file, write_file
from ganctl.manifest import NAME, parse_manifest
from ganctl.serving.archive.integrity import DIGESTS, digest_list
from ganctl.serving.archive.mar import MODEL_NAME, BackendName, model_members
from ganctl.serving.errors import PackageError

RAY_VERSION = "2.60.0"  # the version that the tests use

_HERE = Path(__file__).parent
_HOSTS = _HERE.parent
_HOST_MODULES = ("native/http_reply.py", "native/inputs.py", "worker/messages.py")  # that application.py needs
_IMAGE_FOLDER = f"/home/ray/{MODEL_NAME}-ray"


def package(export_dir: Path, out: Path | None = None, backend: BackendName = "onnx") -> Path:
    """Writes the folder `digits-ray`, atomically; an older one is replaced.

    Args:
        export_dir: the folder that `ganctl export` wrote.
        out: the folder that will contain `digits-ray` (default: the export's parent).
        backend: selects the model file.

    Returns:
        The path of the folder.

    Raises:
        PackageError: the export is missing, damaged, or lacks the file of `backend`; or something else has the
            folder's name.
    """
    export_dir = export_dir.absolute()
    folder = (out or export_dir.parent).resolve() / f"{MODEL_NAME}-ray"
    if folder.exists() and not (folder / DIGESTS).is_file():
        raise PackageError(f"{folder}: found something else than a folder of `ganctl package`. Name another --out.")
    members = model_members(export_dir, backend) | _code() | {"requirements.txt": _requirements(backend)}
    digest = hashlib.sha256(digest_list(members)).hexdigest()[:12]
    members |= _configs(folder, digest)
    with new_folder(folder) as temporary:
        for name, content in {**members, DIGESTS: digest_list(members)}.items():
            write_file(temporary / name, content)
    return folder


def describe(folder: Path) -> dict[str, Any]:
    """Returns a description of a folder that `package` wrote."""
    manifest = parse_manifest(read_file(folder / NAME), str(folder / NAME), PackageError)
    config = str(folder / "config.yaml")
    return {"kind": "ray", "path": str(folder), "config": config, "model_version": manifest["model_version"]}


def _code() -> dict[str, bytes]:
    """The application and the modules of hosts that it imports, with imports that work without ganctl."""
    modules = {"application.py": _HERE / "application.py"}
    modules |= {f"ganctl_host/{Path(name).name}": _HOSTS / name for name in _HOST_MODULES}
    return {name: _without_ganctl(read_file(path).decode()).encode() for name, path in modules.items()}


def _without_ganctl(source: str) -> str:
    source = re.sub(r"\bganctl\.serving\.handler\b", "ganctl_handler", source)
    return re.sub(r"\bganctl\.serving\.hosts\.(native|worker)\b", "ganctl_host", source)


def _requirements(backend: BackendName) -> bytes:
    """The packages that the folder's code imports, at the versions installed here."""
    pins = [
        f"{name}=={version(name)}"
        for name in ("numpy", "torch" if backend == "torchscript" else "onnxruntime", "pillow", "pyyaml")
    ]
    return "\n".join([*pins, f"ray[serve]=={RAY_VERSION}", ""]).encode()


def _configs(folder: Path, digest: str) -> dict[str, bytes]:
    """The configs for a folder on this machine, and for one in an image."""
    here = {"host": "127.0.0.1", "working_dir": json.dumps(f"local://{folder}")}  # JSON strings are valid in YAML
    in_image = {"host": "0.0.0.0", "working_dir": f"local://{_IMAGE_FOLDER}"}
    values = {"ray": RAY_VERSION, "digest": digest, "folder": _IMAGE_FOLDER, "python": "{}{}".format(*sys.version_info)}
    values["config"] = indent(_fill("config.yaml", values | in_image), " " * 4).rstrip()
    configs = {name: _fill(name, values | here) for name in ("config.yaml", "rayservice.yaml", "Dockerfile")}
    return {name: text.encode() for name, text in configs.items()}


def _fill(name: str, values: Mapping[str, str]) -> str:
    return Template(read_file(_HERE / name).decode()).substitute(values)
