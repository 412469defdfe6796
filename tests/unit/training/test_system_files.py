"""Files that operating systems and programs leave among images are ignored, and reported in one line."""

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.training.data import cache
from tests.conftest import SMALL
from tests.unit.training.folders import count, fill, fill_flat, paint, read

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
    assert line.startswith("data.source: ")
    assert "\n" not in line
    assert "cannot be read" not in caplog.text


def test_system_files_next_to_split_folders_are_ignored(tmp_path: Path) -> None:
    for split in ("train", "test"):
        fill(tmp_path / "pets" / split, images=5)
        (tmp_path / "pets" / split / "@eaDir").mkdir()
    (tmp_path / "pets/System Volume Information").mkdir()
    (tmp_path / "pets/Thumbs.db").write_bytes(b"x")
    assert [len(read(tmp_path / "pets", split)) for split in ("train", "test")] == [8, 10]


@pytest.mark.parametrize("labeled", [True, False])
def test_system_files_in_an_archive_are_ignored_and_reported(
    labeled: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets") if labeled else fill_flat(tmp_path / "pets")
    for path in sorted(root.rglob("*.png")):  # as the archive utility of macOS writes them
        resources = root / "__MACOSX" / path.relative_to(root).with_name(f"._{path.name}")
        resources.parent.mkdir(parents=True, exist_ok=True)
        resources.write_bytes(b"\0\5\x16\7")
    (root / ".DS_Store").write_bytes(b"x")
    archive = Path(shutil.make_archive(str(tmp_path / "set"), "zip", root))
    assert read(archive).class_names == (("cat", "dog") if labeled else ())
    assert count(archive) == 40
    (line,) = [message for message in caplog.messages if "__MACOSX" in message]
    assert re.match(r"data\.source: .*\(2\)", line)


@pytest.mark.parametrize("labeled", [True, False])
def test_runs_below_the_folder_of_the_images_are_ignored(
    labeled: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets") if labeled else fill_flat(tmp_path / "pets")
    before = read(root)
    for run in ("runs/00000-conv-pets", "runs/00001-conv-pets", "my run"):
        (root / run / "checkpoints").mkdir(parents=True)
        (root / run / "config.toml").write_text("")
        paint(root / run / "samples/step-00000100.png")
    caplog.clear()
    assert read(root).images.equal(before.images)
    assert read(root).class_names == before.class_names
    assert "reading" not in caplog.text, "the images are not read again for a new run"
    cache.clear_memory_cache()
    assert count(root, skip_corrupt=True) == 40
    assert any(message.startswith("data.source: ") and "(3)" in message for message in caplog.messages)


def test_a_run_can_be_started_in_the_folder_of_the_images_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill_flat(tmp_path / "pets"))  # without labels: no classifier is fitted
    small = [word for setting in SMALL for word in ("--set", setting)]
    for number in range(2):
        done = CliRunner().invoke(cli, ["train", ".", "--max-steps", "1", "--batch-size", "4", *small])
        assert done.exit_code == 0, done.output
        assert Path(f"runs/0000{number}-auto-pets/checkpoints/last.safetensors").exists()
    inspected = CliRunner().invoke(cli, ["inspect", "."])
    assert inspected.exit_code == 0, inspected.output
    assert len(list(Path().glob("*.png"))) == 40, "a contact sheet among the images would be one of them"
    assert "--out" in inspected.stderr


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
    assert re.match(r"data\.source: .*\(3\)", line)
