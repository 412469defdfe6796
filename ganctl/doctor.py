"""The command `doctor`: checks this machine for the requirements of ganctl."""

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
from ganctl.serving.hosts.torchserve.private_folder import executable_folder
from ganctl.streams import emit

# Run in a child process: importing torch takes seconds and memory, and a broken CUDA driver may crash the process.
_TORCH_PROBE = f"""
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
_MIN_DISK_GB = 2


@dataclass(frozen=True)
class Finding:
    """The result of one check: its name, its text, `advice` if it is not `ok`, and `facts` for programs."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def check_machine(folder: Path) -> Iterator[Finding]:
    """Yields one finding after another; `folder` is the parent folder of runs."""
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
        "python", sys.version_info >= (3, 11), version, "Install Python 3.11 or newer.", {"version": version}
    )


def _torch() -> Finding:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TORCH_PROBE],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            check=True,
        )
        facts = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        message = getattr(error, "stderr", None) or str(error)
        return Finding(
            "torch",
            False,
            message.strip().splitlines()[-1],
            "Everything except serving ONNX archives needs it: `pip install torch`.",
        )
    devices = ", ".join(facts["cuda"]) or "no CUDA device: trains on the CPU"
    bf16 = f", bf16 {'supported' if facts['bf16'] else 'not supported'}" if facts["cuda"] else ""
    return Finding("torch", True, f"{facts['version']}, {devices}{bf16}", facts=facts)


def _java() -> Finding:
    try:
        java = find_java()
        version = java_version(java)
    except ServerError as error:
        return Finding("java", False, "no Java that TorchServe supports", str(error))
    return Finding("java", True, f"{version}, {java}", facts={"version": version, "path": str(java)})


def _package(name: str, use: str) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", f"`ganctl {use}` needs it: `pip install {name}`.")
    return Finding(name, True, version, facts={"version": version})


def _ports() -> Finding:
    in_use = []
    for port in range(8080, 8085):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                in_use.append(port)
    found = f"{', '.join(map(str, in_use))} in use" if in_use else "8080 to 8084 are free"
    advice = "`ganctl serve --port 0` uses free ports; `ss -ltnp` shows the processes that use these."
    return Finding("ports", not in_use, found, advice, {"taken": in_use})


def _temporary() -> Finding:
    """Checks the temporary folder, from which TorchServe's native library is loaded."""
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        return Finding("tmpdir", False, error.strerror or str(error), "Set TMPDIR to a writable folder.")
    facts = {"path": str(folder), "noexec": False}
    try:
        native_folder = executable_folder(folder)
    except ServerError as error:
        return Finding("tmpdir", False, f"{folder}, mounted noexec", str(error), facts | {"noexec": True})
    if native_folder != folder:
        found = f"{folder}, mounted noexec: `ganctl serve` loads TorchServe's native library from {native_folder}"
        return Finding("tmpdir", True, found, facts=facts | {"noexec": True})
    return Finding("tmpdir", True, str(folder), facts=facts)


def _disk(folder: Path) -> Finding:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    found = f"{free / 1e9:.1f} GB free for {existing}" + ("" if writable else ", not writable")
    advice = f"A run may need {_MIN_DISK_GB} GB: name a writable folder with more space by --run-dir."
    return Finding(
        "disk", writable and free > _MIN_DISK_GB * 1e9, found, advice, {"free_bytes": free, "writable": writable}
    )


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check this machine for missing requirements."""
    findings = []
    for finding in check_machine(Path("runs")):
        findings.append(finding)
        if not as_json:
            click.echo(f"{'ok  ' if finding.ok else 'LACK'}  {finding.name:<21} {finding.found}")
            if not finding.ok:
                click.echo(f"{'':<28}{finding.advice}")
    if as_json:
        record = {
            each.name: {
                "ok": each.ok,
                "found": each.found,
                "advice": None if each.ok else each.advice,
                **each.facts,
            }
            for each in findings
        }
        emit({"ok": all(finding.ok for finding in findings), "findings": record})
