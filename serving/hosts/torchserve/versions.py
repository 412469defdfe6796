"""The versions of the model that a server has: the one that is served, and the one before it, to go back to.

A new version is verified, unpacked, tried by a process of its own (`worker/canary.py`), and only then named to the
workers, which load it beside the old one and exchange the two between one batch and the next: no request fails.
"""

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ganctl.files import naming
from ganctl.serving.archive.integrity import check_and_copy
from ganctl.serving.archive.mar import MODEL_NAME, describe
from ganctl.serving.errors import DeployError, PackageError
from ganctl.serving.hosts.torchserve.worker.commands import CURRENT

_CANARY_SECONDS = 120.0
_SWITCH_SECONDS = 120.0


class Version(NamedTuple):
    """An unpacked archive."""

    folder: Path
    model_version: str


class Versions:
    """The versions in a server's private folder."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._state = folder / "state"
        self._environment = environment
        self._numbers = itertools.count(1)
        self.served: Version | None = None
        self.previous: Version | None = None

    def begin(self, mar: Path, sha256: str | None) -> None:
        """Takes the first version in, before there are workers, and puts it where the front end loads it from.

        Raises PackageError where it is damaged, or another one than the digest says.
        """
        self.served = self._take(mar, self._folder / "store" / f"{MODEL_NAME}.mar", sha256)
        self._name(self.served)

    def deploy(self, mar: Path, sha256: str | None) -> Version:
        """Serves a new version. Raises PackageError (see `begin`), or DeployError; then the old one is served."""
        archive = self._folder / "versions" / "new.mar"
        try:
            new = self._take(mar, archive, sha256)
        finally:
            archive.unlink(missing_ok=True)
        try:
            self._try(new)
            self._switch(new)
        except DeployError:
            shutil.rmtree(new.folder)
            raise
        return new

    def roll_back(self) -> Version:
        """Serves the version before again, and keeps the one after it in the same way.

        Raises DeployError where there is none, or a worker cannot load it.
        """
        if self.previous is None:
            raise DeployError("--rollback: there is no version before the one that is served. Nothing was changed.")
        self._switch(self.previous)
        assert self.served is not None
        return self.served

    def _take(self, mar: Path, archive: Path, sha256: str | None) -> Version:
        check_and_copy(mar, archive, sha256)
        described = describe(archive)
        if described["backend"] == "torchscript" and importlib.util.find_spec("torch") is None:
            raise PackageError(
                f"{mar}: draws by TorchScript, which needs the package torch: install it, or package anew."
            )
        model_version = str(described["model_version"])
        folder = self._folder / "versions" / f"{next(self._numbers)}-{model_version}"
        try:
            with naming(folder), zipfile.ZipFile(archive) as members:
                members.extractall(folder)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Version(folder, model_version)

    def _try(self, version: Version) -> None:
        """Has a process of its own draw from it; what is wrong with it then hurts no worker."""
        command = [sys.executable, "-P", "-m", "ganctl.serving.hosts.torchserve.worker.canary", str(version.folder)]
        environment = {**self._environment, "PYTHONPATH": str(Path(__file__).parents[4])}
        environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_CANARY_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DeployError(
                f"the new version drew nothing within {_CANARY_SECONDS:g} s. It is not served."
            ) from error
        if done.returncode != 0:
            raise DeployError(
                f"the new version draws nothing, so it is not served. Its own words:\n{done.stderr[-2000:]}"
            )

    def _switch(self, new: Version) -> None:
        old = self.served
        assert old is not None
        self._name(new)
        try:
            self._wait_for_workers(new)
        except DeployError:
            self._name(old)
            raise
        forgotten = self.previous
        self.served, self.previous = new, old
        if forgotten is not None and forgotten != new:
            shutil.rmtree(forgotten.folder)

    def _name(self, version: Version) -> None:
        """Tells the workers, in one move."""
        aside = self._state / "next"
        aside.unlink(missing_ok=True)  # of a change that could not be told
        aside.symlink_to(version.folder)
        aside.replace(self._state / CURRENT)

    def _wait_for_workers(self, version: Version) -> None:
        deadline = time.monotonic() + _SWITCH_SECONDS
        while time.monotonic() < deadline:
            told = self._told()
            errors = [each["error"] for each in told if each["error"]]
            if errors:
                raise DeployError(f"a worker could not load the new version ({errors[0]}). The old one is served.")
            if told and all(each["version"] == version.folder.name for each in told):
                return
            time.sleep(0.02)
        raise DeployError(f"the workers had not all loaded it after {_SWITCH_SECONDS:g} s. The old one is served.")

    def _told(self) -> list[dict[str, Any]]:
        """What the living workers say."""
        told = []
        for path in self._state.glob("worker-*"):
            if path.suffix == "" and _lives(int(path.name.partition("-")[2])):
                told.append(json.loads(path.read_text(encoding="utf-8")))
        return told


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
