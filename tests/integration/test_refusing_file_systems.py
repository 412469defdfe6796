"""File system errors are reported with their path and cause, never as a defect, and leave no partial file.

A folder that cannot be flushed (fsync) causes no error.
"""

import errno
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import refusing
from tests.conftest import SMALL, Ganctl, one_object

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file systems")

TRAIN = ["train", "--max-steps", 1, *(word for setting in SMALL for word in ("--set", setting))]


def check_reported(done: "subprocess.CompletedProcess[str]", path: object, number: int) -> None:
    """Checks that the command ends with exit code 1 and an error message with the path and the reason."""
    assert done.returncode == 1, done.stderr
    assert f"{path}: {os.strerror(number)}. " in done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [errno.EINVAL, pytest.param(errno.EOPNOTSUPP, marks=pytest.mark.soak)])
def test_a_training_succeeds_in_a_folder_that_cannot_be_flushed(
    number: int, library: Path, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    done = started_ganctl(*TRAIN, "--run-dir", "run", env=refusing.refuse(library, "fsync", tmp_path / "run", number))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/checkpoints/best.safetensors").exists()


@pytest.mark.soak
def test_sample_succeeds_in_a_folder_that_cannot_be_opened_for_a_flush(
    library: Path, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images").chmod(0o300)  # writable, not readable; root can read it, so the library refuses that
    refused = refusing.refuse(library, "fsync", "images", errno.EBADF)
    assert started_ganctl("sample", "pretrained", "--out", "images/x.png", env=refused).returncode == 0
    (tmp_path / "images").chmod(0o700)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["x.png"]


@pytest.mark.parametrize(
    ("call", "number", "out", "after"),
    [
        ("write", errno.EIO, "x.png", 0),
        ("write", errno.ESTALE, "x.npz", 0),
        ("write", errno.EFBIG, "x.gif", 0),
        ("write", errno.ENOSPC, "x", 2),  # a folder of images
        ("open", errno.EMFILE, "x.png", 0),
        ("fsync", errno.EIO, "x.webp", 0),
        ("close", errno.EDQUOT, "x.png", 0),
        ("rename", errno.EXDEV, "x.png", 0),
        ("mkdir", errno.EROFS, "x", 0),
        ("write", errno.ETIMEDOUT, "x.png", 0),
        ("write", 250, "x.png", 0),  # a number without a name
    ],
)
@pytest.mark.soak
def test_an_error_while_sample_writes_is_reported_with_the_path_and_leaves_no_file(
    call: str, number: int, out: str, after: int, library: Path, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    refused = refusing.refuse(library, call, tmp_path, number, after=after)
    words = ["sample", "pretrained", "--count", 9, "--seed", 0, "--out", tmp_path / out, "--json"]
    done = started_ganctl(*words, *(["--digit", 3, "--frames", 9] if out.endswith("gif") else []), env=refused)
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "x/000002-4.png" if after else tmp_path / out
    assert done.returncode == 1, done.stderr
    message = str(one_object(done.stdout)["error"])
    assert message.startswith(f"{path}".removesuffix("-4.png")), message
    assert f": {os.strerror(number)}. " in message
    assert "defect" not in done.stderr


@pytest.mark.parametrize("file", ["stats.jsonl", "log.txt", "samples/", "events.out.tfevents", "checkpoints/"])
@pytest.mark.soak
def test_a_write_error_in_a_run_folder_ends_the_training_with_the_path(
    file: str, library: Path, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    refused = refusing.refuse(library, "write", tmp_path / "run" / file, errno.EIO)
    done = started_ganctl(*TRAIN, "--set", "log.tensorboard=true", "--run-dir", tmp_path / "run", env=refused)
    assert done.returncode == 1, done.stderr
    path = tmp_path / "run" if "events" in file else f"{tmp_path / 'run'}/{file}"
    assert f"Error: {path}" in done.stderr
    assert f": {os.strerror(errno.EIO)}. " in done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob(".ganctl-*"))


@pytest.mark.parametrize(
    ("call", "after"),
    [("write", 0), ("rename", 2), pytest.param("write", 1, marks=pytest.mark.soak)],
)
def test_a_write_error_of_export_leaves_the_earlier_export(
    call: str, after: int, library: Path, exported: Path, small_run: Path, started_ganctl: Ganctl
) -> None:
    before = {path: path.read_bytes() for path in exported.iterdir()}
    refused = refusing.refuse(library, call, exported.parent, errno.ENOSPC, after=after)
    done = started_ganctl("export", small_run, "--format", "torchscript", "--out", exported, env=refused)
    assert done.returncode == 1, done.stderr
    assert f"Error: {exported}" in done.stderr
    assert f": {os.strerror(errno.ENOSPC)}. " in done.stderr
    assert {path: path.read_bytes() for path in exported.iterdir()} == before
    assert list(exported.parent.iterdir()) == [exported]


@pytest.mark.parametrize(("call", "after"), [("write", 0), ("rename", 0)])
def test_a_write_error_of_package_leaves_the_earlier_archive(
    call: str, after: int, library: Path, exported: Path, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    (tmp_path / "digits.mar").write_text("the earlier archive")
    done = started_ganctl(
        "package", exported, "--out", tmp_path, env=refusing.refuse(library, call, tmp_path, errno.EIO, after=after)
    )
    check_reported(done, tmp_path / "digits.mar", errno.EIO)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.mar"]
    assert (tmp_path / "digits.mar").read_text() == "the earlier archive"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["sample", "{}", "--out", "x.png"], "manifest.json"),
        (["sample", "{}", "--out", "x.png"], "generator.onnx"),
        (["evaluate", "{}"], "generator.onnx"),
        (["package", "{}", "--out", "."], "generator.onnx"),
        (["inspect", "{}"], "manifest.json"),
    ],
)
@pytest.mark.soak
def test_a_read_error_of_an_export_is_reported_with_the_path(
    words: list[str], part: str, library: Path, exported: Path, started_ganctl: Ganctl
) -> None:
    refused = refusing.refuse(library, "read", exported / part, errno.ESTALE)
    done = started_ganctl(*(word.format(exported) for word in words), env=refused)
    check_reported(done, exported / part, errno.ESTALE)


@pytest.mark.soak
def test_a_loop_of_symbolic_links_is_reported_as_an_error_and_not_a_defect(
    started_ganctl: Ganctl, small_run: Path, tmp_path: Path
) -> None:
    for name in ("loop", "loop.png"):
        (tmp_path / name).symlink_to(name)
    for words in (["sample", "pretrained", "--out", "loop.png"], ["sample", "pretrained", "--out", "loop/x.png"],
                  ["export", small_run, "--out", "loop"], [*TRAIN, "--run-dir", "loop"]):  # fmt: skip
        done = started_ganctl(*words)
        assert done.returncode == 1, done.stderr
        assert re.search(rf"loop\S*: {os.strerror(errno.ELOOP)}\. ", done.stderr), done.stderr
        assert "defect" not in done.stderr


def test_limits_of_the_process_are_reported_with_the_file_and_ulimit(started_ganctl: Ganctl, tmp_path: Path) -> None:
    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = started_ganctl("sample", "pretrained", "--count", 99, "--out", "x.png", preexec_fn=limit_file_size)
    check_reported(done, "x.png", errno.EFBIG)
    assert "ulimit -f" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_out_of_memory_error_names_the_settings_to_make_smaller(started_ganctl: Ganctl) -> None:
    def limit_memory() -> None:
        resource.setrlimit(
            resource.RLIMIT_AS, (1 << 35, 1 << 35)
        )  # of address space; the first layer alone takes 500 GB

    words = [*TRAIN, "--device", "cpu", "--set", "model.base_channels=20000000", "--dry-run", "--json"]
    done = started_ganctl(*words, preexec_fn=limit_memory)
    assert done.returncode == 1, done.stderr
    message = str(one_object(done.stdout)["error"])
    assert message.startswith("out of memory ("), message
    for setting in ("train.batch_size", "model.base_channels", "data.size", "data.on_device=false"):
        assert setting in message
    for word in ("defect", "Traceback"):
        assert word not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
@pytest.mark.parametrize("words", [["inspect", "{}"], ["inspect", "{}", "--json"], ["sample", "--help"], ["--version"]])
@pytest.mark.soak
def test_a_full_standard_output_is_reported(words: list[str], small_run: Path) -> None:
    command = [sys.executable, "-m", "ganctl", *(word.format(small_run) for word in words)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: stdout: {os.strerror(errno.ENOSPC)}. ")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def tiny_disk() -> Iterator[Callable[[str], Path]]:
    """Returns a function that mounts a tmpfs of the given size and returns its folder."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        mounted = []

        def mount(size: str) -> Path:
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", name]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except FileNotFoundError:
                pytest.skip("this machine has no mount command")
            if done.returncode != 0:
                pytest.skip(f"mounting a file system is not allowed: {done.stderr.strip()}")
            mounted.append(name)
            return Path(name)

        yield mount
        for place in mounted:
            subprocess.run(["umount", place], check=True)


def test_serve_reports_a_full_tmpdir_with_its_path_and_leaves_no_file(
    exported: Path, started_ganctl: Ganctl, tiny_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    assert started_ganctl("package", exported, "--out", tmp_path).returncode == 0
    archive = (tmp_path / "digits.mar").stat().st_size
    disk = tiny_disk("64k")
    for size in (archive // 2, archive * 3 // 2):  # too small for the archive; too small for the extracted files
        subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
        done = started_ganctl(
            "serve", tmp_path / "digits.mar", "--port", 0, "--json", env=os.environ | {"TMPDIR": str(disk)}
        )
        record = json.loads(done.stdout)
        assert (done.returncode, record["exit_code"]) == (1, 1), done.stderr
        assert record["error"].startswith(f"{disk}"), record
        assert f": {os.strerror(errno.ENOSPC)}. " in record["error"], record
        assert "TMPDIR" in record["error"], record
        assert list(disk.iterdir()) == []
