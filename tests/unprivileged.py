"""The command line as a user that the system does not list, for tests that root runs."""

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
class Stranger:
    """Runs `ganctl` as a user without a name and, unless the environment names one, without a home.

    `folder` belongs to that user and is reachable; most folders of pytest are not.
    """

    folder: Path
    python: Path
    libraries: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """PATH and what the interpreter needs, with `variables`; no HOME, no XDG_CACHE_HOME."""
        needed = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(self.libraries), "OMP_NUM_THREADS": "1"}
        return {**needed, **variables}

    def run(self, *words: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        """`ganctl WORDS…` in `folder`."""
        return self.run_python("-m", "ganctl", *words, **variables)

    def run_python(self, *words: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        """`python WORDS…` in `folder`."""
        return subprocess.run(
            [str(self.python), *map(str, words)], cwd=self.folder, env=self.environment(**variables),
            user=UID, group=UID, extra_groups=[], capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip


def stranger_in(folder: Path) -> Stranger | str:
    """A stranger with a home of its own below `folder`; or the reason why there can be none here.

    Where other users cannot reach the interpreter (one below /root), a copy of its standard library is made.
    """
    if os.name != "posix" or os.geteuid() != 0:
        return "only root can run a command as another user"
    folder.chmod(0o755)
    own = folder / "work"
    own.mkdir()
    os.chown(own, UID, UID)
    found = Stranger(own, Path(sys.executable), Path(sys.base_prefix) / "lib")
    if _works(found):
        return found
    copied = Stranger(own, _copy_interpreter(folder), folder / "base" / "lib")
    return copied if _works(copied) else "other users cannot read the packages that this interpreter uses"


def _works(stranger: Stranger) -> bool:
    try:
        return stranger.run_python("-c", "import click, ganctl, torch").returncode == 0
    except PermissionError:
        return False


def _copy_interpreter(folder: Path) -> Path:
    """A virtual environment with a copied base and the packages of this one."""
    name, source = f"python3.{sys.version_info.minor}", Path(sys.base_prefix)
    base, venv = folder / "base", folder / "venv"
    for each in ("bin", "lib"):
        (base / each).mkdir(parents=True)
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
