"""Cache folder of the user: its path, and that all commands work without it."""

import os
import re
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ganctl.training.config.cache_dir import cache_path, read_cached, write_cached
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.data.named import EMBEDDED
from ganctl.training.errors import ConfigError, DataError
from ganctl.training.evaluation.cache import TensorCache


@pytest.mark.parametrize(
    ("xdg", "home", "expected"),
    [
        ("/x", "/tmp", "/x/ganctl"),
        (None, "/tmp", "/tmp/.cache/ganctl"),
        ("", "/tmp", "/tmp/.cache/ganctl"),
        ("relative/x", "/tmp", "/tmp/.cache/ganctl"),
        ("~/.cache", "/tmp", "/tmp/.cache/ganctl"),
        (None, "/", "/.cache/ganctl"),
        (None, "/nonexistent", None),
        (None, "/dev/null", None),
        (None, "", None),
        (None, "relative", None),
        ("relative", "~", None),
    ],
)
def test_the_cache_folder_follows_the_xdg_specification(
    xdg: str | None, home: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", home)
    assert cache_path() == (Path(expected) if expected else None)


def a_file(folder: Path) -> Path:
    (folder / "cache").write_text("a file where a folder should be")
    return folder / "cache"


def a_loop_of_links(folder: Path) -> Path:
    (folder / "cache").symlink_to("loop")
    (folder / "loop").symlink_to("cache")
    return folder / "cache"


def a_link_to_nothing(folder: Path) -> Path:
    (folder / "cache").symlink_to("/proc/nothing")
    return folder / "cache"


def a_folder_that_even_root_cannot_write(folder: Path) -> Path:
    return Path("/proc/self")


def too_long_a_path(folder: Path) -> Path:
    return folder.joinpath(*["x" * 200] * 25)


def files_that_are_folders(folder: Path) -> Path:
    cache = folder / "cache"
    os.environ["XDG_CACHE_HOME"] = str(cache)
    use_the_cache()
    for path in [path for path in cache.rglob("*") if path.is_file()]:
        path.unlink()
        path.mkdir()
    return cache


def use_the_cache() -> list[str]:
    """Reads packed MNIST and caches a tensor, as `evaluate` does; returns the messages."""
    messages: list[str] = []
    with tempfile.TemporaryDirectory() as folder:  # a new one, as the images of a folder are kept in memory
        os.environ["PATH_DATASETS"] = str(shutil.copytree(EMBEDDED, Path(folder, "mnist")))
        assert len(load_split(DataSettings(), "test")) == 10_000
    tensors = TensorCache(messages.append).get_or_compute({"what": "x"}, lambda: {"a": torch.arange(5)})
    assert torch.equal(tensors["a"], torch.arange(5))
    return messages


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "PATH_DATASETS"):
        monkeypatch.setenv(name, "/to be set by a test")  # restores the variable after a test that sets it


@pytest.mark.parametrize(
    "place",
    [
        a_file,
        a_loop_of_links,
        a_link_to_nothing,
        a_folder_that_even_root_cannot_write,
        too_long_a_path,
        files_that_are_folders,
    ],
)
def test_an_unusable_cache_folder_is_reported_once_and_costs_only_time(
    place: Callable[[Path], Path], tmp_path: Path
) -> None:
    cache = place(tmp_path)
    os.environ["XDG_CACHE_HOME"] = str(cache)
    (message,) = use_the_cache()
    assert message.startswith(f"{cache}/ganctl")
    assert "not cached" in message


def test_without_a_home_one_message_names_the_variables_of_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    (message,) = use_the_cache()
    assert re.search(r"\bHOME\b", message)
    assert "XDG_CACHE_HOME" in message


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Limits files to 1,000 bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_leaves_no_file_and_no_folder(tmp_path: Path, full_disk: None) -> None:
    target = tmp_path / "cache" / "file"
    reason = write_cached(target, bytes(2_000))
    assert reason is not None
    assert str(target) in reason
    assert "File too large" in reason
    assert not target.parent.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", bytes(range(256))])
def test_a_damaged_cache_file_is_reported_and_computed_again(content: bytes, tmp_path: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path)
    store = TensorCache(lambda text: None)
    store.get_or_compute({"what": "x"}, lambda: {"a": torch.arange(5)})
    (file,) = tmp_path.rglob("*.safetensors")
    intact = file.read_bytes()
    file.write_bytes(content)
    (message,) = use_the_cache()
    assert str(file) in message
    assert "damaged" in message
    assert file.read_bytes() == intact


def test_a_file_is_read_back_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert read_cached(path, Path.read_bytes) is None
    assert write_cached(path, b"x") is None
    assert read_cached(path, Path.read_bytes) == b"x"
    assert [each.name for each in path.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_an_unusable_folder_for_a_download_names_the_settings_of_another_one(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    debian = Path("/usr/share/datasets/fashion-mnist")
    if name == "fashion-mnist" and debian.exists():
        pytest.skip(f"{debian} exists, from which it is read")
    settings = DataSettings(source=name)
    monkeypatch.delenv("PATH_DATASETS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    for home in ("", str(a_file(tmp_path)), "/nonexistent", "/proc/self"):
        monkeypatch.setenv("HOME", home)
        with pytest.raises(DataError, match=rf"^data\.source = '{name}': .*\bPATH_DATASETS\b"):
            load_split(settings, "test")
    for variable in (str(tmp_path / "cache" / "x"), "/proc/self/x"):
        monkeypatch.setenv("PATH_DATASETS", variable)
        with pytest.raises(DataError, match=r"^PATH_DATASETS: .*/x.*\bPATH_DATASETS\b"):
            load_split(settings, "test")


def test_an_unknown_user_in_a_path_is_an_error_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH_DATASETS", "~nosuchuser/x")
    with pytest.raises(ConfigError, match=r"PATH_DATASETS = '~nosuchuser/x': .*~nosuchuser"):
        load_split(DataSettings(), "test")
