"""Files that cannot be read as images: the error names all of them, and data.skip_corrupt skips them."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganctl.training.data import cache
from ganctl.training.data.datasets import data_digest
from ganctl.training.errors import DataError
from tests.unit.training.folders import count, fill, fill_flat, of, paint, posix, read

pytestmark = pytest.mark.usefixtures("data_cache")


def spoil(root: Path) -> list[Path]:
    """Makes three files of 41 unreadable; returns them."""
    bad = [root / "cat/0.png", root / "dog/notes.txt", root / "dog/half.png"]
    bad[0].write_bytes(b"")
    bad[1].write_text("no picture")
    paint(bad[2], size=(64, 64), seed=5)
    bad[2].write_bytes(bad[2].read_bytes()[:2000])
    return bad


def listed_paths(message: str) -> list[str]:
    """Returns the paths of a list of files, one per line, each followed by the reason."""
    return re.findall(r"\n  - (.*?): ", message)


def test_the_error_names_every_unreadable_file(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    with pytest.raises(DataError, match=r"^data\.source: .*\b3\b.* data\.skip_corrupt=true") as raised:
        read(root)
    assert listed_paths(str(raised.value)) == [str(path) for path in sorted(bad)]
    assert re.search(r"cat/0\.png: .*\bempty\b", str(raised.value))
    assert " object at 0x" not in str(raised.value), "an object in memory is no help"
    assert not list(data_cache.glob("*")), "an incomplete folder was cached"


def test_the_error_names_every_unreadable_file_of_a_folder_without_class_folders(tmp_path: Path) -> None:
    root = fill_flat(tmp_path / "pictures", images=20)
    (root / "00.png").write_bytes(b"")
    for name in ("notes.txt", "README.md", "LICENSE"):
        (root / name).write_text("no image, and no fault")
    (root / "page.jpg").write_text("<html>404 Not Found</html>")
    (root / "absent.png").symlink_to(tmp_path / "absent")
    with pytest.raises(DataError, match=r"^data\.source: .*\b3\b.* data\.skip_corrupt=true") as raised:
        read(root)
    assert listed_paths(str(raised.value)) == [f"{root}/{name}" for name in ("00.png", "absent.png", "page.jpg")]
    assert count(root, skip_corrupt=True) == 19


def test_skip_corrupt_skips_unreadable_files_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    with caplog.at_level(logging.WARNING):
        parts = [read(root, split, skip_corrupt=True) for split in ("train", "val", "test")]
    assert sum(len(part) for part in parts) == 39
    (warning,) = [line for line in caplog.messages if "data.skip_corrupt" in line]
    assert listed_paths(warning) == [str(path) for path in sorted(bad)]


def test_a_cache_written_with_skip_corrupt_does_not_hide_unreadable_files(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    read(root, skip_corrupt=True)
    with pytest.raises(DataError) as raised:
        read(root)
    assert listed_paths(str(raised.value)) == [str(path) for path in sorted(bad)]


def test_thirty_unreadable_files_are_all_listed(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    bad = [root / "dog" / f"note {i:02}.txt" for i in range(30)]
    for path in bad:
        path.write_text("no picture")
    with pytest.raises(DataError) as raised:
        read(root)
    assert listed_paths(str(raised.value)) == [str(path) for path in bad]


@posix
def test_broken_links_devices_and_pipes_are_unreadable_files(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    (root / "cat/absent.png").symlink_to(tmp_path / "absent")
    (root / "cat/device.png").symlink_to("/dev/null")
    (root / "cat/self.png").symlink_to("self.png")
    (root / "cow").symlink_to(tmp_path / "absent")  # a class on a disk that is not mounted
    os.mkfifo(root / "dog/pipe.png")
    with pytest.raises(DataError, match=r"^data\.source: .*\b5\b") as raised:
        read(root)
    names = ("cat/absent.png", "cat/device.png", "cat/self.png", "cow", "dog/pipe.png")
    assert listed_paths(str(raised.value)) == [f"{root}/{name}" for name in names]
    absent, _, itself, folder, _ = str(raised.value).splitlines()[1:]
    assert "No such file or directory" in absent
    assert "Too many levels of symbolic links" in itself
    assert "No such file or directory" in folder
    assert count(root, skip_corrupt=True) == 40


def test_a_folder_without_read_permission_is_an_unreadable_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "pets")
    paint(root / "cat/more/0.png")
    listed = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:  # root, who may run the tests, can read any folder
        if folder.name == "more":
            raise PermissionError(13, "Permission denied")
        return iter(listed(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"/pets/cat/more: .*Permission denied"):
        read(root)
    (root / "cat/more").rename(root / "more")  # among the class folders, but it is not one of them
    with pytest.raises(DataError, match=r"/pets/more: .*Permission denied"):
        read(root)
    assert count(root, skip_corrupt=True) == 40


def test_skipped_files_are_logged_again_when_the_images_come_from_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    for _ in range(2):
        caplog.clear()
        cache.clear_memory_cache()
        read(root, skip_corrupt=True)
        (warning,) = [line for line in caplog.messages if "data.skip_corrupt" in line]
        assert listed_paths(warning) == [str(path) for path in sorted(bad)]
    assert "reading" not in caplog.text, "the second call did not use the cache"


@posix
def test_file_names_that_are_not_utf_8_are_read(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    (root / "cat/3.png").rename(root / os.fsdecode(b"cat/caf\xe9.png"))
    (root / "cat" / os.fsdecode(b"\xff.png")).write_bytes(b"no picture")
    (root / "dog/1.png").rename(root / "dog/1².png")
    assert count(root, skip_corrupt=True) == 40
    assert len(data_digest(of(root, skip_corrupt=True))) > 16
    with pytest.raises(DataError, match=r"/pets/cat/\\udcff\.png: ") as raised:
        read(root)
    str(raised.value).encode()  # a log file can hold it


def test_a_class_without_a_readable_image_is_named_in_the_error(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", images=3)
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^data\.source: .*\b1\b.*\bdog\b.*\btrain\b"):
        read(root, skip_corrupt=True)
