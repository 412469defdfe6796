"""Looks at what this machine has, and says what to do about what it lacks."""

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ganctl import import_path
from ganctl.options import json_option
from ganctl.serving.errors import ServerError
from ganctl.serving.hosts.torchserve.java import find_java, java_version
from ganctl.serving.hosts.torchserve.private_folder import loading_place
from ganctl.streams import emit

# Asked in another process: importing torch takes seconds and memory, and a broken CUDA driver may end the process.
_ASK_TORCH = f"""
import sys
sys.path.append({str(Path(import_path.PACKAGE).parent)!r})
from ganctl import import_path
sys.excepthook = import_path.excepthook
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({{
    "version": torch.__version__,
    "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "bf16": bool(cuda and torch.cuda.is_bf16_supported()),
}}))
"""
_DISK_GB = 2


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `advice` is for where it is not `good`; `facts` are for programs."""

    name: str
    good: bool
    found: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def examine(folder: Path) -> Iterator[Finding]:
    """Looks at one thing after the other; `folder` is where runs would be written."""
    yield _python()
    yield Finding("processor", True, f"{os.cpu_count()} cores, {platform.machine()}", facts={"cores": os.cpu_count()})
    yield _torch()
    yield _java()
    for package, use in (("torchserve", "serve"), ("onnxruntime", "export and serve")):
        yield _package(package, use)
    yield _ports()
    yield _temporary()
    yield _disk(folder)


def _python() -> Finding:
    version = platform.python_version()
    return Finding(
        "python", sys.version_info >= (3, 11), version, "Python 3.11 or newer is needed.", {"version": version}
    )


def _torch() -> Finding:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _ASK_TORCH],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            check=True,
        )
        facts = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        told = getattr(error, "stderr", None) or str(error)
        return Finding(
            "torch",
            False,
            told.strip().splitlines()[-1],
            "All but serving of ONNX archives needs it: `pip install torch`.",
        )
    devices = ", ".join(facts["cuda"]) or "no CUDA device: trains on the CPU"
    bf16 = f", bf16 {'supported' if facts['bf16'] else 'not supported'}" if facts["cuda"] else ""
    return Finding("torch", True, f"{facts['version']}, {devices}{bf16}", facts=facts)


def _java() -> Finding:
    try:
        java = find_java()
        version = java_version(java)
    except ServerError as error:
        return Finding("java", False, "none that TorchServe can use", str(error))
    return Finding("java", True, f"{version}, {java}", facts={"version": version, "path": str(java)})


def _package(name: str, use: str) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", f"`ganctl {use}` needs it: `pip install {name}`.")
    return Finding(name, True, version, facts={"version": version})


def _ports() -> Finding:
    taken = []
    for port in range(8080, 8085):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                taken.append(port)
    found = f"{', '.join(map(str, taken))} taken" if taken else "8080 to 8084 are free"
    advice = "`ganctl serve --port 0` takes free ones; `ss -ltnp` tells who holds these."
    return Finding("ports", not taken, found, advice, {"taken": taken})


def _temporary() -> Finding:
    """The temporary folder, where TorchServe's native library is unpacked and loaded."""
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        return Finding("tmpdir", False, error.strerror or str(error), "Set TMPDIR to a folder that can be written.")
    facts = {"path": str(folder), "noexec": False}
    try:
        place = loading_place(folder)
    except ServerError as error:
        return Finding("tmpdir", False, f"{folder}, mounted noexec", str(error), facts | {"noexec": True})
    if place != folder:
        found = f"{folder}, mounted noexec: `ganctl serve` loads TorchServe's native library from {place}"
        return Finding("tmpdir", True, found, facts=facts | {"noexec": True})
    return Finding("tmpdir", True, str(folder), facts=facts)


def _disk(folder: Path) -> Finding:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    found = f"{free / 1e9:.1f} GB free for {existing}" + ("" if writable else ", which cannot be written")
    advice = f"A run with its checkpoints may take {_DISK_GB} GB: name a roomier, writable folder with --run-dir."
    return Finding(
        "disk", writable and free > _DISK_GB * 1e9, found, advice, {"free_bytes": free, "writable": writable}
    )


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine has, and what to do about what it lacks."""
    findings = []
    for finding in examine(Path("runs")):
        findings.append(finding)
        if not as_json:
            click.echo(f"{'ok  ' if finding.good else 'LACK'}  {finding.name:<21} {finding.found}")
            if not finding.good:
                click.echo(f"{'':<28}{finding.advice}")
    if as_json:
        told = {
            each.name: {
                "ok": each.good,
                "found": each.found,
                "advice": None if each.good else each.advice,
                **each.facts,
            }
            for each in findings
        }
        emit({"ok": all(finding.good for finding in findings), "findings": told})
