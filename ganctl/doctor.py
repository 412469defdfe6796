"""The command `doctor`: checks this machine for the requirements of ganctl."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import click

from ganctl import import_path
from ganctl.options import json_option
from ganctl.serving.errors import ServerError
from ganctl.serving.hosts.torchserve.java import find_java, java_version
from ganctl.serving.hosts.torchserve.ports import reserve_ports
from ganctl.serving.hosts.torchserve.private_folder import executable_folder
from ganctl.streams import print_json

# Run in a child process: importing torch takes seconds and memory, and a broken CUDA driver may crash the process.
_TORCH_PROBE = """
import sys
sys.path.append(sys.argv[1])
from ganctl import import_path
sys.excepthook = import_path.excepthook
import torch
found = [torch.__version__]
if torch.cuda.is_available():
    found += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    found += ["precisions fp32, bf16, fp16" if bf16 else "precisions fp32, fp16"]
else:
    found += ["no CUDA device: trains on the CPU", "precisions fp32, bf16"]
print(*found, sep=", ")
"""
_MIN_DISK_GB = 2


class Finding(NamedTuple):
    """The result of one check: what it checks, whether it is `ok`, its text, and `advice` if it is not `ok`."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def _torch() -> Finding:
    command = [sys.executable, "-P", "-c", _TORCH_PROBE, str(Path(import_path.PACKAGE).parent)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=True)
        return Finding("torch", True, done.stdout.strip())
    except (OSError, subprocess.SubprocessError) as error:
        message = getattr(error, "stderr", None) or str(error)
        advice = "Everything except serving ONNX archives needs it: `pip install torch`."
        return Finding("torch", False, message.strip().splitlines()[-1], advice)


def _java() -> Finding:
    try:
        java = find_java()
        return Finding("java", True, f"{java_version(java)}, {java}")
    except ServerError as error:
        advice = f"{error} `ganctl serve --engine native` needs none."
        return Finding("java", False, "no Java that TorchServe supports", advice)


def _package(name: str, use: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", f"`ganctl {use}` needs it: `pip install {name}`.")


def _ports() -> Finding:
    try:
        with reserve_ports("127.0.0.1", 8080):
            return Finding("ports", True, "8080 to 8084 are free")
    except ServerError as error:
        return Finding("ports", False, "not all of 8080 to 8084 are free", str(error))


def _temporary() -> Finding:
    """Checks the temporary folder, from which TorchServe's native library is loaded."""
    try:
        folder = Path(tempfile.gettempdir())
        native_folder = executable_folder(folder)
    except OSError as error:
        return Finding("tmpdir", False, error.strerror or str(error), "Set TMPDIR to a writable folder.")
    except ServerError as error:
        return Finding("tmpdir", False, f"{folder}, mounted noexec", str(error))
    noexec = f", mounted noexec: `ganctl serve` loads TorchServe's native library from {native_folder}"
    return Finding("tmpdir", True, f"{folder}{noexec if native_folder != folder else ''}")


def _disk(folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    found = f"{free / 1e9:.1f} GB free for {existing}" + ("" if writable else ", not writable")
    advice = f"A run may need {_MIN_DISK_GB} GB: name a writable folder with more space by --run-dir."
    return Finding("disk", writable and free > _MIN_DISK_GB * 1e9, found, advice)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check this machine for missing requirements."""
    findings = [
        Finding("python", True, platform.python_version()),
        Finding("processor", True, f"{os.cpu_count()} cores, {platform.machine()}"),
        _torch(),
        _java(),
        _package("torchserve", "serve --engine torchserve"),
        _package("onnxruntime", "export and serve"),
        _ports(),
        _temporary(),
        _disk(Path("runs").absolute()),
    ]
    if as_json:
        record = {
            name: {"ok": ok, "found": found, "advice": None if ok else advice} for name, ok, found, advice in findings
        }
        print_json({"ok": all(finding.ok for finding in findings), "findings": record})
        return
    for finding in findings:
        click.echo(f"{'ok  ' if finding.ok else 'LACK'}  {finding.name:<21} {finding.found}")
        if not finding.ok:
            click.echo(f"{'':<28}{finding.advice}")
