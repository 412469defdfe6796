"""Versions of the model on a server: the active one, and the previous one for a rollback.

A new archive is verified, unpacked and tested by a separate process (`worker/smoke_test.py`). Only then does the link
`current` point to it. The workers load it while the old model answers and switch between batches: no request fails.
"""

import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ganctl.files import add_path_to_errors
from ganctl.serving.archive.integrity import check_and_copy, read_archive
from ganctl.serving.archive.mar import MODEL_NAME, describe_members
from ganctl.serving.errors import DeployError, PackageError
from ganctl.serving.hosts.worker.commands import CURRENT

_MAX_SECONDS = 120.0  # for the smoke test, and for the workers to load a version


class Version(NamedTuple):
    """An unpacked archive."""

    folder: Path
    model_version: str


class Versions:
    """The versions in a server's private folder.

    Args:
        folder: the private folder.
        environment: environment variables of the workers, and so of the smoke test.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._state = folder / "state"
        self._environment = environment
        self._numbers = itertools.count(1)
        self._previous: Version | None = None
        self.active: Version

    def start(self, mar: Path, sha256: str | None) -> None:
        """Unpacks the first version, before there are workers, into the store that the front end loads from.

        Args:
            mar: the archive.
            sha256: the expected digest, or None.

        Raises:
            PackageError: the archive is damaged, has another digest, or needs a package that is not installed.
        """
        self.active = self._unpack(check_and_copy(mar, self._folder / "store" / f"{MODEL_NAME}.mar", sha256), mar)
        self._activate(self.active)

    def deploy(self, mar: Path, sha256: str | None) -> dict[str, str]:
        """Makes a new version active. On an error the old version stays active.

        Returns:
            `model_version` and `previous`, the version that was active before.

        Raises:
            PackageError: as for `start`.
            DeployError: the smoke test failed, or a worker could not load the version.
        """
        members, _ = read_archive(mar, sha256)
        new = self._unpack(members, mar)
        try:
            self._test(new)
            return self._switch(new)
        except DeployError:
            shutil.rmtree(new.folder)
            raise

    def roll_back(self) -> dict[str, str]:
        """Makes the previous version active; the one that was active becomes the previous version.

        Returns the same as `deploy`.

        Raises:
            DeployError: there is no previous version, or a worker could not load it.
        """
        if self._previous is None:
            raise DeployError("--rollback: found no previous version. Nothing was changed.")
        return self._switch(self._previous)

    def _unpack(self, members: Mapping[str, bytes], mar: Path) -> Version:
        description = describe_members(members, mar)
        if description["backend"] == "torchscript" and importlib.util.find_spec("torch") is None:
            raise PackageError(
                f"{mar}: found a TorchScript generator, which needs the package torch. Install torch, or package the"
                " export again for the back-end onnx."
            )
        model_version = str(description["model_version"])
        folder = self._folder / "versions" / f"{next(self._numbers)}-{model_version}"
        try:
            for name, content in members.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with add_path_to_errors(folder / name):
                    (folder / name).write_bytes(content)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Version(folder, model_version)

    def _test(self, version: Version) -> None:
        """Generates an image in a process of its own, so that a broken version cannot harm a worker."""
        command = [sys.executable, "-P", "-m", "ganctl.serving.hosts.worker.smoke_test", str(version.folder)]
        try:
            subprocess.run(
                command,
                env={**self._environment, "PYTHONPATH": str(Path(__file__).parents[3])},
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_MAX_SECONDS,
                check=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            reason = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise DeployError(f"the new version failed its smoke test, and is not served:\n{reason[-2000:]}") from error

    def _switch(self, new: Version) -> dict[str, str]:
        old = self.active
        self._activate(new)
        try:
            self._wait_for_workers(new)
        except DeployError:
            self._activate(old)
            raise
        if self._previous not in (None, new):
            shutil.rmtree(self._previous.folder)
        self.active, self._previous = new, old
        return {"model_version": new.model_version, "previous": old.model_version}

    def _activate(self, version: Version) -> None:
        """Points the link `current`, which the workers poll, to the version; atomic."""
        tmp = self._state / "next"
        tmp.unlink(missing_ok=True)  # left by an attempt that failed
        tmp.symlink_to(version.folder)
        tmp.replace(self._state / CURRENT)

    def _wait_for_workers(self, version: Version) -> None:
        deadline = time.monotonic() + _MAX_SECONDS
        while time.monotonic() < deadline:
            reports = self._worker_reports().values()
            errors = [report["error"] for report in reports if report["error"]]
            if errors:
                raise DeployError(f"a worker could not load the new version ({errors[0]}). The old one stays active.")
            if reports and all(report["version"] == version.folder.name for report in reports):
                return
            time.sleep(0.02)
        raise DeployError(f"not all workers loaded the new version in {_MAX_SECONDS:g} s. The old one stays active.")

    def ready_workers(self) -> set[int]:
        """Returns the process ids of the living workers that have loaded a version."""
        return set(self._worker_reports())

    def _worker_reports(self) -> dict[int, dict[str, Any]]:
        """The reports of the living workers by process id: `version` and `error` of each."""
        return {
            int(path.name.partition("-")[2]): json.loads(path.read_text(encoding="utf-8"))
            for path in self._state.glob("worker-*")
            if Path("/proc", path.name.partition("-")[2]).exists()
        }
