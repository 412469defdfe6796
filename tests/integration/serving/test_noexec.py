"""TMPDIR mounted noexec: libraries load from another folder, or the error names the cause."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.serving.conftest import PROJECT
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts in a namespace of its own")

PLACES = ("/tmp", "/var/tmp", "/dev/shm")
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
GANCTL = (sys.executable, "-m", "ganctl")
SERVE = (*GANCTL, "serve", "--port", "0", "--workers", "1", "--json")


def without_exec(command: tuple[str, ...], temporary: Path, *others: str) -> "subprocess.Popen[str]":
    """Starts a command whose temporary folder, and these others, are empty and mounted noexec for it alone."""
    mounts = 'while [ "$1" != -- ]; do mount -t tmpfs -o noexec none "$1" || exit 99; shift; done; shift'
    return subprocess.Popen(
        [*UNSHARE, "sh", "-c", f'{mounts}; exec "$@"', "sh", str(temporary), *others, "--", *command],
        env=os.environ | {"PYTHONPATH": str(PROJECT), "TMPDIR": str(temporary)}, cwd=PROJECT,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A folder that can be mounted over."""
    if shutil.which("unshare") is None:
        pytest.skip("the program unshare is needed")
    (tmp_path / "t").mkdir()
    tried = without_exec(("true",), tmp_path / "t")
    _, err = tried.communicate(timeout=PATIENCE)
    if tried.returncode != 0:
        pytest.skip(f"this user may not mount ({err.strip()})")
    return tmp_path / "t"


@pytest.fixture
def everywhere(temporary: Path) -> tuple[str, ...]:
    """All places that libraries are loaded from instead."""
    needed = [Path(path).resolve() for path in (sys.prefix, sys.base_prefix, PROJECT)]
    if any(path.is_relative_to(place) for path in needed for place in PLACES):
        pytest.skip("Python or the project lie in a folder that would be mounted over")
    return tuple(place for place in PLACES if Path(place).is_dir())


def test_a_server_loads_its_libraries_from_another_place_and_tells(temporary: Path) -> None:
    server = without_exec(SERVE, temporary)
    assert server.stdout is not None
    told = server.stdout.readline()
    server.send_signal(signal.SIGTERM)
    _, err = server.communicate(timeout=PATIENCE)
    assert '"url"' in told, told + err
    assert server.returncode == 0, err
    assert f"{temporary} is mounted noexec: TorchServe's native library is loaded from /" in err


def test_where_no_place_is_left_the_cause_and_the_remedy_are_told(temporary: Path, everywhere: tuple[str, ...]) -> None:
    server = without_exec(SERVE, Path("/tmp"), *everywhere)
    _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 6
    assert "/tmp: found a file system mounted noexec" in err
    assert "Set TMPDIR to a folder on a file system without noexec" in err


@pytest.mark.parametrize("sign", ["ok  ", "LACK"])
def test_the_doctor_tells_it(sign: str, temporary: Path, request: pytest.FixtureRequest) -> None:
    others = request.getfixturevalue("everywhere") if sign == "LACK" else ()
    place = Path("/tmp") if sign == "LACK" else temporary
    told, err = without_exec((*GANCTL, "doctor"), place, *others).communicate(timeout=PATIENCE)
    (line,) = [line for line in told.splitlines() if line[6:].startswith("tmpdir ")]
    assert line.startswith(sign), told + err
    assert f"{place}, mounted noexec" in line
