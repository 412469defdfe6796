"""The file `environment.json` of a run folder: command, machine and versions."""

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ganctl import __version__, import_path
from ganctl.processes import available_cores

ENVIRONMENT = "environment.json"
_PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "tensorboard")
_GIT_TIMEOUT = 5.0  # seconds; a checkout on a slow file system is no reason to delay a run


def describe_environment(ranks: int) -> dict[str, Any]:
    """Describes this process and its machine, as JSON values; `ranks` is the number of training processes."""
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": available_cores(),
        "ranks": ranks,
        "torch_threads": torch.get_num_threads(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {"ganctl": __version__} | {name: metadata.version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
    }


def read_environment(folder: Path) -> dict[str, Any]:
    """Reads `environment.json` of a run folder; {} if it is absent, damaged or no JSON object."""
    try:
        environment = json.loads((folder / ENVIRONMENT).read_bytes())
    except (OSError, ValueError, RecursionError):  # informative only: nothing depends on it
        return {}
    return environment if isinstance(environment, dict) else {}


def _cpu_model() -> str | None:
    """Returns the name of the processor as Linux gives it; elsewhere what Python knows, or None."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(names, None) or platform.processor() or None
    return platform.processor() or None


def _git_commit() -> str | None:
    """Returns the commit of the checkout that this package runs from; None outside a checkout, or without git."""
    checkout = Path(os.path.realpath(import_path.PACKAGE)).parent
    if not (checkout / ".git").exists():  # a repository further up is not ganctl's
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables["GIT_OPTIONAL_LOCKS"] = "0"  # writes nothing into the checkout
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=_GIT_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):  # not installed, or the checkout is another user's
        return None
    return done.stdout.strip() or None
