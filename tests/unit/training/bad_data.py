"""Helpers for the tests of bad data sets: functions that write one, and the assertion that it is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ganctl, one_object
from tests.unit.training.formats import class_folders, draw, pack, write

Build = Callable[[Path], Path]  # writes a data set into a folder; returns the path for the command


def entries(folder: Path) -> list[str]:
    """Lists everything below a folder but the folders of the user's cache, which are no half-written data."""
    cache = folder / "user-cache"
    paths = (path for path in folder.rglob("*") if not (path.is_dir() and cache in (path, *path.parents)))
    return sorted(str(path.relative_to(folder)) for path in paths)


def assert_refused(ganctl: Ganctl, folder: Path, path: Path, message: str, *words: str, command: str = "train") -> None:
    """Asserts that a command ends with exit code 4 and one message, and leaves no file."""
    (folder / "temporary").mkdir()
    env = os.environ | {"XDG_CACHE_HOME": str(folder / "user-cache"), "TMPDIR": str(folder / "temporary")}
    before = entries(folder)
    done = ganctl(command, path, "--json", *words, env=env)
    assert done.returncode == 4, done.stderr
    record = one_object(done.stdout)
    assert record["exit_code"] == 4
    assert str(path) in str(record["error"])
    assert message in str(record["error"])
    assert [line.startswith("Error: ") for line in done.stderr.splitlines()].count(True) == 1
    assert "Traceback" not in done.stderr
    assert entries(folder) == before


def cases(table: list[tuple[str, Build, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("build", "message"), [pytest.param(*rest, id=name) for name, *rest in table])


def cut(build: Build, share: float) -> Build:
    """Returns a function that writes a file and truncates it."""

    def build_and_cut(folder: Path) -> Path:
        path = build(folder)
        content = path.read_bytes()
        return write(path, content[: int(len(content) * share)])

    return build_and_cut


def packed(suffix: str) -> Build:
    return lambda folder: pack(class_folders(draw("L"), folder / "set"), suffix)
