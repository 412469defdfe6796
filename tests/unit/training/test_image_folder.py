"""One's own images: class folders become tensors, once; what cannot be read is told, all of it."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training import image_folder
from training.config import DataSettings
from training.data import ImageSet, data_digest, load_split
from training.errors import ConfigError, DataError
from training.image_folder import decode


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_folder._load.cache_clear()
    return tmp_path / "cache" / "ganctl" / "datasets"


def paint(path: Path, *, mode: str = "RGB", size: tuple[int, int] = (28, 28), seed: int = 0) -> None:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)


def fill(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), images: int = 20, mode: str = "RGB") -> Path:
    for label, name in enumerate(classes):
        for i in range(images):
            paint(root / name / f"{i}.png", mode=mode, seed=100 * label + i)
    return root


def read(root: Path, split: str = "train", **settings: object) -> ImageSet:
    chosen = {"name": "folder", "root": str(root), "num_workers": 0, **settings}
    return load_split(DataSettings.model_validate(chosen), split)  # type: ignore[arg-type]


def test_class_folders_are_split_by_a_shuffle_that_keeps_each_class_in_proportion(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    parts = {split: read(root, split) for split in ("train", "val", "test")}
    assert {split: torch.bincount(part.labels).tolist() for split, part in parts.items()} == {
        "train": [16, 16], "val": [2, 2], "test": [2, 2],
    }  # fmt: skip
    assert parts["train"].class_names == ("cat", "dog")
    assert parts["train"].shape == (3, 28, 28)
    everything = {image.numpy().tobytes() for part in parts.values() for image in part.images}
    assert len(everything) == 40


def test_an_image_of_the_wanted_size_is_kept_to_the_last_bit(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    with Image.open(root / "dog/3.png") as picture:
        expected = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
    found = [read(root, split) for split in ("train", "val", "test")]
    pairs = [pair for part in found for pair in zip(part.images, part.labels.tolist(), strict=True)]
    assert [label for image, label in pairs if image.equal(expected)] == [1]


def test_splits_that_have_folders_are_taken_as_they_are_and_validation_from_training(tmp_path: Path) -> None:
    fill(tmp_path / "pets/train", images=20)
    fill(tmp_path / "pets/test", images=5)
    sizes = {split: len(read(tmp_path / "pets", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 36, "val": 4, "test": 10}
    fill(tmp_path / "pets/val", images=7)
    sizes = {split: len(read(tmp_path / "pets", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 40, "val": 14, "test": 10}


def test_grey_images_have_one_channel_unless_three_are_asked_for(tmp_path: Path) -> None:
    grey, colour = fill(tmp_path / "grey", mode="L"), fill(tmp_path / "colour")
    assert [read(grey).shape[0], read(colour).shape[0]] == [1, 3]
    assert [read(grey, channels=3).shape[0], read(colour, channels=1).shape[0]] == [3, 1]
    assert read(colour, size=64).shape == (3, 64, 64)


def test_classes_that_are_numbers_come_in_their_order(tmp_path: Path) -> None:
    root = fill(tmp_path / "numbers", classes=("10", "9", "2"), images=3)
    assert read(root).class_names == ("2", "9", "10")


def test_the_files_are_read_once_and_kept_with_a_digest(tmp_path: Path, cache: Path) -> None:
    root = fill(tmp_path / "pets")
    first = read(root).images
    kept = sorted(path.suffix for path in cache.iterdir())
    assert kept == [".json", ".safetensors"]
    for path in root.rglob("*.png"):  # only the cache can know the pixels now: sizes and times stay
        facts = path.stat()
        path.write_bytes(bytes(facts.st_size))
        import os

        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    image_folder._load.cache_clear()
    assert torch.equal(read(root).images, first)


def test_a_folder_that_changed_is_read_anew(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    settings = DataSettings.model_validate({"name": "folder", "root": str(root), "num_workers": 0})
    before, digest = len(read(root)), data_digest(settings)
    for i in range(30):
        paint(root / "cat" / f"new {i}.png", seed=1000 + i)
    assert len(read(root)) == before + 24  # of 50 files a fifth goes to the other splits
    assert data_digest(settings) != digest


def test_a_damaged_cache_is_told_and_made_anew(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fill(tmp_path / "pets")
    first = read(root).images
    (file,) = cache.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    image_folder._load.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(read(root).images, first)
    assert "is damaged (its SHA-256 is" in caplog.text


def spoil(root: Path) -> list[Path]:
    bad = [root / "cat/0.png", root / "dog/notes.txt", root / "dog/half.png"]
    bad[0].write_bytes(b"")
    bad[1].write_text("no picture")
    paint(bad[2], size=(64, 64), seed=5)
    bad[2].write_bytes(bad[2].read_bytes()[:2000])
    return bad


def test_all_files_that_cannot_be_read_are_named(tmp_path: Path, cache: Path) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    with pytest.raises(DataError, match=r"files that cannot be read as images \(3\).* data.skip_bad=true") as raised:
        read(root)
    for path in bad:
        assert f"\n  - {path}: " in str(raised.value)
    assert not cache.exists(), "a half-read folder was kept"


def test_files_that_cannot_be_read_may_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    with caplog.at_level(logging.WARNING):
        parts = [read(root, split, skip_bad=True) for split in ("train", "val", "test")]
    assert sum(len(part) for part in parts) == 39
    assert "leaves out what cannot be read as images (3)" in caplog.text
    assert str(bad[1]) in caplog.text


def test_what_systems_leave_in_folders_is_no_image(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    for name in (".DS_Store", "Thumbs.db"):
        (root / "cat" / name).write_bytes(b"x")
    (root / ".git").mkdir()
    assert read(root).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("absent", "is no folder"),
        ("empty", "has no class folders"),
        ("few", "has 2 images, expected 3 or more of each class"),
        ("unequal", "the classes of .*test are not those of the other splits: fish"),
    ],
)
def test_a_folder_of_another_shape_is_told(shape: str, message: str, tmp_path: Path) -> None:
    root = tmp_path / "pets"
    if shape == "empty":
        root.mkdir()
    if shape == "few":
        fill(root, images=2)
    if shape == "unequal":
        fill(root / "train")
        fill(root / "test", classes=("cat", "dog", "fish"))
    with pytest.raises(DataError, match=f"data.root: .*{message}"):
        read(root)


def test_a_class_of_which_nothing_is_left_is_told(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", images=3)
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="class 1 has no sound image left among the train images"):
        read(root, skip_bad=True)


def test_a_folder_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.root: data.name = 'folder' needs it"):
        load_split(DataSettings(name="folder"), "train")


def one_colour(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)  # type: ignore[arg-type]
    return decode(path, 28, grey=False)


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    assert one_colour(tmp_path / "a.png", Image.new("RGBA", (28, 28), (255, 255, 255, 0))).max() == 0
    half = one_colour(tmp_path / "b.png", Image.new("RGBA", (28, 28), (200, 100, 0, 128)))
    assert half[:, 0, 0].tolist() == [100, 50, 0]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((28, 28), 32896, np.uint16))
    assert one_colour(tmp_path / "deep.png", image)[0, 0, 0] == 128


def test_a_picture_taken_sideways_is_turned(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28, 3), np.uint8)
    pixels[:14] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    turned = one_colour(tmp_path / "turned.png", Image.fromarray(pixels), exif=exif)
    assert turned[0, :, 20].min() == 255
    assert turned[0, :, 5].max() == 0


def test_the_middle_square_of_a_wide_picture_is_taken(tmp_path: Path) -> None:
    pixels = np.zeros((56, 112, 3), np.uint8)
    pixels[:, 28:84] = 200
    assert one_colour(tmp_path / "wide.png", Image.fromarray(pixels)).min() == 200


def test_pictures_with_a_palette_have_their_colours(tmp_path: Path) -> None:
    image = Image.new("RGB", (28, 28), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert one_colour(tmp_path / "palette.gif", image)[:, 0, 0].tolist() == [10, 200, 30]


def test_worker_processes_read_the_same(tmp_path: Path, cache: Path) -> None:
    root = fill(tmp_path / "pets", images=50)
    alone = read(root).images
    for path in cache.iterdir():
        path.unlink()
    image_folder._load.cache_clear()
    assert torch.equal(read(root, num_workers=2).images, alone)
