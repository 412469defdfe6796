"""Runs the command line as a user without an entry in the user database, in tests that root runs."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import PATIENCE

UID = 12345
_NOT_COPIED = shutil.ignore_patterns("test", "tests", "site-packages", "idlelib", "tkinter", "lib2to3", "ensurepip")


@dataclass(frozen=True)
class UnlistedUser:
    """Runs `ganctl` as a user without a name and, unless `variables` set HOME, without a home folder.

    The user owns `folder` and can reach it; most folders of pytest are closed to other users.
    """

    folder: Path
    python: Path
    libraries: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """Returns `variables`, PATH and the variables that the interpreter needs; no HOME and no XDG_CACHE_HOME."""
        needed = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(self.libraries), "OMP_NUM_THREADS": "1"}
        return {**needed, **variables}

    def run(self, *words: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Runs `ganctl WORDS…` in `folder`."""
        return self.run_python("-m", "ganctl", *words, **variables)

    def run_python(self, *words: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Runs `python WORDS…` in `folder`."""
        return subprocess.run(
            [str(self.python), *map(str, words)], cwd=self.folder, env=self.environment(**variables),
            user=UID, group=UID, extra_groups=[], capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip


def create_unlisted_user(folder: Path) -> UnlistedUser | str:
    """Returns a user with a folder below `folder`, or the reason why this machine does not allow it.

    If other users cannot read the interpreter (for example, below /root), it is copied with its standard library.
    """
    if os.name != "posix" or os.geteuid() != 0:
        return "only root can run a command as another user"
    folder.chmod(0o755)
    own = folder / "work"
    own.mkdir()
    os.chown(own, UID, UID)
    user = UnlistedUser(own, Path(sys.executable), Path(sys.base_prefix) / "lib")
    if _works(user):
        return user
    copied = UnlistedUser(own, _copy_interpreter(folder), folder / "base" / "lib")
    return copied if _works(copied) else "other users cannot read the packages that this interpreter uses"


def _works(user: UnlistedUser) -> bool:
    try:
        return user.run_python("-c", "import click, ganctl, torch").returncode == 0
    except PermissionError:
        return False


def _copy_interpreter(folder: Path) -> Path:
    """Copies the base interpreter into a virtual environment with the packages of this one; returns its `python`."""
    name, source = f"python3.{sys.version_info.minor}", Path(sys.base_prefix)
    base, venv = folder / "base", folder / "venv"
    for subfolder in ("bin", "lib"):
        (base / subfolder).mkdir(parents=True)
    shutil.copy2(source / "bin" / name, base / "bin" / name)
    for library in (source / "lib").glob("libpython*"):
        shutil.copy2(library, base / "lib" / library.name)
    shutil.copytree(source / "lib" / name, base / "lib" / name, ignore=_NOT_COPIED)
    (venv / "bin").mkdir(parents=True)
    (venv / "lib" / name).mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(f"home = {base / 'bin'}\ninclude-system-site-packages = false\n", "utf-8")
    (venv / "lib" / name / "site-packages").symlink_to(Path(sys.prefix) / "lib" / name / "site-packages")
    (venv / "bin" / "python").symlink_to(base / "bin" / name)
    return venv / "bin" / "python"
