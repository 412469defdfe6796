"""Files that operating systems and programs leave among images are ignored, and reported in one line."""

import re
from pathlib import Path

import pytest

from tests.unit.training.folders import count, fill, paint, read

pytestmark = pytest.mark.usefixtures("data_cache")

FOLDERS = (
    "__MACOSX", "lost+found", "@eaDir", "$Recycle.Bin", "SYSTEM VOLUME INFORMATION", ".ipynb_checkpoints",
    "#recycle", "@tmp", "@Recycle", ".Trashes", ".Spotlight-V100", "FOUND.000", "found.017", "LOST.DIR", ".Trash-1000",
    "__pycache__", "Network Trash Folder", ".@__thumb", "#snapshot",
)  # fmt: skip
FILES = (
    ".DS_Store", "THUMBS.DB", "ehthumbs.db", "ehthumbs_vista.db", "Desktop.ini", "Icon\r",
    "._1.png", ".picasa.ini", "Picasa.ini", ".nomedia", "Thumbs.db:encryptable", "1.png:Zone.Identifier",
    "2.png@SynoEAStream", "ZbThumbnail.info", ".directory",
)  # fmt: skip


@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_system_files_are_ignored_in_each_folder_and_reported_in_one_line(
    skip_corrupt: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    for place in (root, root / "cat"):
        for name in FOLDERS:
            paint(place / name / "thumbnail.png")
            (place / name / "0.png").mkdir()
        for name in FILES:
            (place / name).write_bytes(b"\0\0junk")
    assert read(root, skip_corrupt=skip_corrupt).class_names == ("cat", "dog")
    assert count(root, skip_corrupt=skip_corrupt) == 40
    (line,) = [message for message in caplog.messages if f"({2 * len(FOLDERS + FILES)})" in message]
    assert line.startswith("data.root: ")
    assert "\n" not in line
    assert "cannot be read" not in caplog.text


def test_system_files_next_to_split_folders_are_ignored(tmp_path: Path) -> None:
    for split in ("train", "test"):
        fill(tmp_path / "pets" / split, images=5)
        (tmp_path / "pets" / split / "@eaDir").mkdir()
    (tmp_path / "pets/System Volume Information").mkdir()
    (tmp_path / "pets/Thumbs.db").write_bytes(b"x")
    assert [len(read(tmp_path / "pets", split)) for split in ("train", "test")] == [8, 10]


def test_folders_that_only_resemble_system_folders_are_classes(tmp_path: Path) -> None:
    classes = ("MACOSX", "found.x", "recycled", "tmp", "snapshots")
    assert read(fill(tmp_path / "bins", classes=classes, images=3)).class_names == tuple(sorted(classes))


def test_empty_folders_next_to_classes_are_ignored_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    (root / "cow").mkdir()
    (root / "fish/old/older").mkdir(parents=True)
    (root / "goat").mkdir()
    (root / "goat/.DS_Store").write_bytes(b"x")
    assert read(root).class_names == ("cat", "dog")
    (line,) = [message for message in caplog.messages if str(root / "fish") in message]
    assert re.match(r"data\.root: .*\(3\)", line)
