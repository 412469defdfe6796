"""Files that cannot be read as images are told, all of them, or left out on demand."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganctl.training.data import image_folder
from ganctl.training.data.datasets import data_digest
from ganctl.training.errors import DataError
from tests.unit.training.folders import count, fill, of, paint, posix, read

pytestmark = pytest.mark.usefixtures("data_cache")


def test_what_was_read_with_bad_files_left_out_is_not_taken_where_they_are_refused(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    spoil(root)
    read(root, skip_corrupt=True)
    with pytest.raises(DataError, match="cannot be read as images"):
        read(root)


def spoil(root: Path) -> list[Path]:
    bad = [root / "cat/0.png", root / "dog/notes.txt", root / "dog/half.png"]
    bad[0].write_bytes(b"")
    bad[1].write_text("no picture")
    paint(bad[2], size=(64, 64), seed=5)
    bad[2].write_bytes(bad[2].read_bytes()[:2000])
    return bad


def test_all_files_that_cannot_be_read_are_named(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    with pytest.raises(
        DataError, match=r"files that cannot be read as images \(3\).* data.skip_corrupt=true"
    ) as raised:
        read(root)
    for path in bad:
        assert f"\n  - {path}: " in str(raised.value)
    assert not data_cache.exists(), "a half-read folder was kept"


def test_files_that_cannot_be_read_may_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    with caplog.at_level(logging.WARNING):
        parts = [read(root, split, skip_corrupt=True) for split in ("train", "val", "test")]
    assert sum(len(part) for part in parts) == 39
    assert "skips files that cannot be read as images (3)" in caplog.text
    assert str(bad[1]) in caplog.text


def test_every_bad_file_is_listed_by_name(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    bad = [root / "dog" / f"note {i:02}.txt" for i in range(30)]
    for path in bad:
        path.write_text("no picture")
    with pytest.raises(DataError) as raised:
        read(root)
    assert re.findall(r"\n  - (.*?): Unidentified", str(raised.value)) == [str(path) for path in bad]


@posix
def test_what_is_neither_a_file_nor_a_folder_is_a_bad_file(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    (root / "cat/absent.png").symlink_to(tmp_path / "absent")
    (root / "cat/device.png").symlink_to("/dev/null")
    (root / "cat/self.png").symlink_to("self.png")
    (root / "cow").symlink_to(tmp_path / "absent")  # a class on a disk that is not mounted
    os.mkfifo(root / "dog/pipe.png")
    with pytest.raises(DataError, match=r"files that cannot be read as images \(5\)") as raised:
        read(root)
    assert str(raised.value).splitlines()[1:] == [
        f"  - {root}/cat/absent.png: a broken link (No such file or directory)",
        f"  - {root}/cat/device.png: neither a file nor a folder",
        f"  - {root}/cat/self.png: a broken link (Too many levels of symbolic links)",
        f"  - {root}/cow: a broken link (No such file or directory)",
        f"  - {root}/dog/pipe.png: neither a file nor a folder",
    ]
    assert count(root, skip_corrupt=True) == 40


def test_a_folder_that_may_not_be_read_is_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "pets")
    paint(root / "cat/more/0.png")
    listed = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:  # permissions do not stop the tests where root runs them
        if folder.name == "more":
            raise PermissionError(13, "Permission denied")
        return iter(listed(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cat/more: a folder that cannot be listed \(Permission denied\)"):
        read(root)
    (root / "cat/more").rename(root / "more")  # beside the classes: it is none
    with pytest.raises(DataError, match=r"pets/more: a folder that cannot be listed \(Permission denied\)"):
        read(root)
    assert count(root, skip_corrupt=True) == 40


def test_what_was_left_out_is_told_whenever_the_images_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    for _ in range(2):
        caplog.clear()
        image_folder.clear_memory_cache()
        read(root, skip_corrupt=True)
        told = [line for line in caplog.messages if "skips files that cannot be read as images (3)" in line]
        assert len(told) == 1
        assert [line.split(": ")[0] for line in told[0].splitlines()[1:]] == [f"  - {path}" for path in sorted(bad)]
    assert "reading" not in caplog.text, "the second time is from the cache"


@posix
def test_names_that_are_no_utf_8_are_read(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    (root / "cat/3.png").rename(root / os.fsdecode(b"cat/caf\xe9.png"))
    (root / "cat" / os.fsdecode(b"\xff.png")).write_bytes(b"no picture")
    (root / "dog/1.png").rename(root / "dog/1².png")
    assert count(root, skip_corrupt=True) == 40
    assert len(data_digest(of(root, skip_corrupt=True))) > 16
    with pytest.raises(DataError, match=r"pets/cat/\\udcff.png: ") as raised:
        read(root)
    str(raised.value).encode()  # it can be written to a log


def test_a_class_of_which_nothing_is_left_is_told(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", images=3)
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"class 1 .* has no readable train image"):
        read(root, skip_corrupt=True)
