"""TMPDIR mounted noexec: libraries load from another folder, or the error names the cause."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.serving.conftest import PROJECT
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts file systems in a mount namespace")

FALLBACK_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
GANCTL = (sys.executable, "-m", "ganctl")
SERVE = (*GANCTL, "serve", "--port", "0", "--workers", "1", "--json")


def without_exec(command: tuple[str, ...], temporary: Path, *others: str) -> "subprocess.Popen[str]":
    """Starts a command that sees `temporary` and `others` as empty folders mounted noexec."""
    mounts = 'while [ "$1" != -- ]; do mount -t tmpfs -o noexec none "$1" || exit 99; shift; done; shift'
    return subprocess.Popen(
        [*UNSHARE, "sh", "-c", f'{mounts}; exec "$@"', "sh", str(temporary), *others, "--", *command],
        env=os.environ | {"PYTHONPATH": str(PROJECT), "TMPDIR": str(temporary)}, cwd=PROJECT,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def mount_point(tmp_path: Path) -> Path:
    """A folder that a file system can be mounted on."""
    if shutil.which("unshare") is None:
        pytest.skip("the program unshare is needed")
    (tmp_path / "t").mkdir()
    tried = without_exec(("true",), tmp_path / "t")
    _, err = tried.communicate(timeout=PATIENCE)
    if tried.returncode != 0:
        pytest.skip(f"this user may not mount ({err.strip()})")
    return tmp_path / "t"


@pytest.fixture
def fallback_folders(mount_point: Path) -> tuple[str, ...]:
    """All folders that libraries are loaded from if TMPDIR is mounted noexec."""
    needed = [Path(path).resolve() for path in (sys.prefix, sys.base_prefix, PROJECT)]
    if any(path.is_relative_to(folder) for path in needed for folder in FALLBACK_FOLDERS):
        pytest.skip("Python or the project is in a folder that the test would mount over")
    return tuple(folder for folder in FALLBACK_FOLDERS if Path(folder).is_dir())


def test_serve_loads_native_libraries_from_a_named_fallback_folder(mount_point: Path) -> None:
    server = without_exec(SERVE, mount_point)
    assert server.stdout is not None
    record = server.stdout.readline()
    server.send_signal(signal.SIGTERM)
    _, err = server.communicate(timeout=PATIENCE)
    assert '"url"' in record, record + err
    assert server.returncode == 0, err
    assert re.search(rf"{re.escape(str(mount_point))} .*noexec.* ({'|'.join(FALLBACK_FOLDERS)})\b", err), err


def test_noexec_on_every_fallback_folder_is_refused_with_the_remedy(fallback_folders: tuple[str, ...]) -> None:
    server = without_exec(SERVE, Path("/tmp"), *fallback_folders)
    _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 6
    assert re.search(r" /tmp: .*noexec.*\bTMPDIR\b", err), err


@pytest.mark.parametrize("sign", ["ok  ", "LACK"])
def test_doctor_reports_a_noexec_temporary_folder(sign: str, mount_point: Path, request: pytest.FixtureRequest) -> None:
    others = request.getfixturevalue("fallback_folders") if sign == "LACK" else ()
    folder = Path("/tmp") if sign == "LACK" else mount_point
    out, err = without_exec((*GANCTL, "doctor"), folder, *others).communicate(timeout=PATIENCE)
    (line,) = [line for line in out.splitlines() if line[6:].startswith("tmpdir ")]
    assert line.startswith(sign), out + err
    assert re.search(rf" {re.escape(str(folder))}\b.*noexec", line), line
