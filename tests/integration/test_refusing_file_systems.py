"""What a file system refuses is told with the path and the cause, and is never called a defect; nothing half-written
stays. A folder that cannot be flushed hinders nothing."""

import errno
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ganctl.exports.export import export
from tests import refusing
from tests.conftest import SMALL, Ganctl, one_object

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file systems")

TRAIN = ["train", "--max-steps", 1, *(word for setting in SMALL for word in ("--set", setting))]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return refusing.build(tmp_path_factory.mktemp("refusing"))


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_run, out=tmp_path_factory.mktemp("of") / "export", formats=["onnx"])


def check(done: "subprocess.CompletedProcess[str]", path: object, number: int) -> None:
    assert done.returncode == 1, done.stderr
    assert f"{path}: {os.strerror(number)}. " in done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [errno.EINVAL, pytest.param(errno.EOPNOTSUPP, marks=pytest.mark.soak)])
def test_a_folder_that_cannot_be_flushed_ends_no_run(
    number: int, library: Path, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    done = started_ganctl(*TRAIN, "--run-dir", "run", env=refusing.refuse(library, "fsync", tmp_path / "run", number))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/checkpoints/best.safetensors").exists()


def test_a_folder_that_cannot_be_opened_ends_no_drawing(library: Path, started_ganctl: Ganctl, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures").chmod(0o300)  # may be written to, not listed: root is refused by the library alone
    refused = refusing.refuse(library, "fsync", "pictures", errno.EBADF)
    assert started_ganctl("sample", "pretrained", "--out", "pictures/x.png", env=refused).returncode == 0
    (tmp_path / "pictures").chmod(0o700)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["x.png"]


@pytest.mark.parametrize(
    ("call", "number", "out", "after"),
    [
        ("write", errno.EIO, "x.png", 0),
        ("write", errno.ESTALE, "x.npz", 0),
        ("write", errno.EFBIG, "x.gif", 0),
        ("write", errno.ENOSPC, "x", 2),  # a folder of pictures
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
def test_what_hinders_a_picture_is_told_and_leaves_nothing(
    call: str, number: int, out: str, after: int, library: Path, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    refused = refusing.refuse(library, call, tmp_path, number, after=after)
    words = ["sample", "pretrained", "--count", 9, "--seed", 0, "--out", tmp_path / out, "--json"]
    done = started_ganctl(*words, *(["--digit", 3, "--frames", 9] if out.endswith("gif") else []), env=refused)
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "x/000002-4.png" if after else tmp_path / out
    assert done.returncode == 1, done.stderr
    told = str(one_object(done.stdout)["error"])
    assert told.startswith(f"{path}".removesuffix("-4.png")), told
    assert f": {os.strerror(number)}. " in told
    assert "defect" not in done.stderr


@pytest.mark.parametrize("file", ["stats.jsonl", "log.txt", "samples/", "events.out.tfevents", "checkpoints/"])
@pytest.mark.soak
def test_a_file_of_a_run_that_cannot_be_written_ends_it_with_its_path(
    file: str, library: Path, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    refused = refusing.refuse(library, "write", tmp_path / "run" / file, errno.EIO)
    done = started_ganctl(*TRAIN, "--set", "log.tensorboard=true", "--run-dir", tmp_path / "run", env=refused)
    assert done.returncode == 1, done.stderr
    where = tmp_path / "run" if "events" in file else f"{tmp_path / 'run'}/{file}"
    assert f"Error: {where}" in done.stderr
    assert f": {os.strerror(errno.EIO)}. " in done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(".ganctl-")]


@pytest.mark.parametrize(
    ("call", "after"),
    [("write", 0), ("rename", 2), pytest.param("write", 1, marks=pytest.mark.soak)],
)
def test_an_export_that_cannot_be_written_leaves_the_earlier_one(
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
def test_an_archive_that_cannot_be_written_leaves_the_earlier_one(
    call: str, after: int, library: Path, exported: Path, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    (tmp_path / "digits.mar").write_text("the earlier one")
    done = started_ganctl(
        "package", exported, "--out", tmp_path, env=refusing.refuse(library, call, tmp_path, errno.EIO, after=after)
    )
    check(done, tmp_path / "digits.mar", errno.EIO)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.mar"]
    assert (tmp_path / "digits.mar").read_text() == "the earlier one"


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
def test_a_file_that_cannot_be_read_is_told(
    words: list[str], part: str, library: Path, exported: Path, started_ganctl: Ganctl
) -> None:
    refused = refusing.refuse(library, "read", exported / part, errno.ESTALE)
    done = started_ganctl(*(word.format(exported) for word in words), env=refused)
    check(done, exported / part, errno.ESTALE)


def test_links_in_a_loop_are_told(started_ganctl: Ganctl, small_run: Path, tmp_path: Path) -> None:
    for name in ("loop", "loop.png"):
        (tmp_path / name).symlink_to(name)
    for words in (["sample", "pretrained", "--out", "loop.png"], ["sample", "pretrained", "--out", "loop/x.png"],
                  ["export", small_run, "--out", "loop"], [*TRAIN, "--run-dir", "loop"]):  # fmt: skip
        done = started_ganctl(*words)
        assert done.returncode in (1, 2), done.stderr
        assert os.strerror(errno.ELOOP) in done.stderr or "holds something else" in done.stderr, done.stderr
        assert "defect" not in done.stderr


def test_limits_of_the_process_are_told(started_ganctl: Ganctl, tmp_path: Path) -> None:
    def no_large_file() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = started_ganctl("sample", "pretrained", "--count", 99, "--out", "x.png", preexec_fn=no_large_file)
    check(done, "x.png", errno.EFBIG)
    assert "ulimit -f" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told_with_what_to_make_smaller(started_ganctl: Ganctl) -> None:
    def some_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 35, 1 << 35))  # addresses; the first layer alone would take 500 GB

    words = [*TRAIN, "--device", "cpu", "--set", "model.base_channels=20000000", "--dry-run", "--json"]
    done = started_ganctl(*words, preexec_fn=some_memory)
    assert done.returncode == 1, done.stderr
    told = str(one_object(done.stdout)["error"])
    assert told.startswith("out of memory (can't allocate memory: you tried to allocate "), told
    assert told.endswith(
        "or make smaller: train.batch_size, model.base_channels or data.size, or give data.on_device=false."
    ), told
    for word in ("defect", "Traceback"):
        assert word not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["inspect", "{}"], ["inspect", "{}", "--json"], ["sample", "--help"], ["--version"]])
@pytest.mark.soak
def test_a_standard_output_that_is_full_is_told(words: list[str], small_run: Path) -> None:
    command = [sys.executable, "-m", "ganctl", *(word.format(small_run) for word in words)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: stdout: No space left on device. Free some space, or name another folder.\n"


@pytest.fixture
def tiny_disk() -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a size."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        mounted = []

        def mount(size: str) -> Path:
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", name]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except FileNotFoundError:
                pytest.skip("there is no mount here")
            if done.returncode != 0:
                pytest.skip(f"may not mount a file system here: {done.stderr.strip()}")
            mounted.append(name)
            return Path(name)

        yield mount
        for place in mounted:
            subprocess.run(["umount", place], check=True)


def test_a_tmpdir_that_is_full_is_told_by_serve(
    exported: Path, started_ganctl: Ganctl, tiny_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    assert started_ganctl("package", exported, "--out", tmp_path).returncode == 0
    archive = (tmp_path / "digits.mar").stat().st_size
    disk = tiny_disk("64k")
    for size in (archive // 2, archive * 3 // 2):  # no room for the archive; none for its files
        subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
        done = started_ganctl(
            "serve", tmp_path / "digits.mar", "--port", 0, "--json", env=os.environ | {"TMPDIR": str(disk)}
        )
        record = json.loads(done.stdout)
        assert (done.returncode, record["exit_code"]) == (1, 1), done.stderr
        assert record["error"].startswith(f"{disk}"), record
        assert f": {os.strerror(errno.ENOSPC)}. Free some space there, or set TMPDIR" in record["error"], record
        assert list(disk.iterdir()) == []
