"""The user's cache: where it is, and that nothing depends on it."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ganctl.training.config.cache_dir import cache_path, read_cached, write_cached
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.data.idx import read_idx
from ganctl.training.data.mnist import EMBEDDED
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
def test_the_cache_is_where_the_xdg_specification_says_or_nowhere(
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
    """Reads packed MNIST and keeps a tensor, as `evaluate` does; returns what was told."""
    told: list[str] = []
    assert read_idx(EMBEDDED / "t10k-labels-idx1-ubyte.gz", (10_000,)).shape == (10_000,)
    kept = TensorCache(told.append).get_or_compute({"what": "x"}, lambda: {"a": torch.arange(5)})
    assert torch.equal(kept["a"], torch.arange(5))
    return told


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/to be set by a test")  # and put back after it


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
def test_a_cache_that_cannot_be_used_is_told_once_and_costs_only_time(
    place: Callable[[Path], Path], tmp_path: Path
) -> None:
    os.environ["XDG_CACHE_HOME"] = str(place(tmp_path))
    told = use_the_cache()
    assert len(told) == 1
    assert "the statistics of the real images are not cached" in told[0]


def test_without_any_home_all_is_computed_and_that_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    (told,) = use_the_cache()
    assert "HOME" in told
    assert "XDG_CACHE_HOME" in told


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may become longer than 1,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_disk_has_no_room_for_leaves_nothing_behind(tmp_path: Path, full_disk: None) -> None:
    target = tmp_path / "cache" / "file"
    reason = write_cached(target, bytes(2_000))
    assert reason is not None
    assert str(target) in reason
    assert "File too large" in reason
    assert not target.parent.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", bytes(range(256))])
def test_damaged_content_is_told_and_computed_again(content: bytes, tmp_path: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path)
    store = TensorCache(lambda text: None)
    store.get_or_compute({"what": "x"}, lambda: {"a": torch.arange(5)})
    (kept,) = tmp_path.rglob("*.safetensors")
    sound = kept.read_bytes()
    kept.write_bytes(content)
    (told,) = use_the_cache()
    assert f"{kept} is damaged" in told
    assert kept.read_bytes() == sound


def test_a_file_is_written_whole_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert read_cached(path, Path.read_bytes) is None
    assert write_cached(path, b"x") is None
    assert read_cached(path, Path.read_bytes) == b"x"
    assert [each.name for each in path.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_a_data_set_that_cannot_be_kept_anywhere_names_the_setting_to_give(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = DataSettings(name=name)
    monkeypatch.delenv("PATH_DATASETS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    for home in ("", str(a_file(tmp_path)), "/nonexistent", "/proc/self"):
        monkeypatch.setenv("HOME", home)
        with pytest.raises(DataError, match=r"^data.root: .* Set data.root or PATH_DATASETS to a folder"):
            load_split(settings, "test")
    for variable in (str(tmp_path / "cache" / "x"), "/proc/self/x"):
        monkeypatch.setenv("PATH_DATASETS", variable)
        with pytest.raises(DataError, match=r"^PATH_DATASETS: .*/x.* Set data.root or PATH_DATASETS to a folder"):
            load_split(settings, "test")


def test_a_home_that_nobody_knows_is_a_fault_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH_DATASETS", "~nosuchuser/x")
    with pytest.raises(ConfigError, match=r"PATH_DATASETS = '~nosuchuser/x': the home folder of ~nosuchuser"):
        load_split(DataSettings(), "test")
