"""More than 8 bits per channel: one white level for the whole data set, so that levels keep their ratio."""

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl.training.errors import DataError
from tests.unit.training.folders import read

pytestmark = pytest.mark.usefixtures("data_cache")

PLANES = struct.pack("<HHIHH", 284, 3, 1, 2, 0)  # a TIFF entry, PlanarConfiguration 2: one plane per color
Write = Callable[[Path, np.ndarray], None]


def write_png(path: Path, values: np.ndarray) -> None:
    """A PNG file of 16 bits with 1 to 4 channels, which Pillow does not write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_tiff(path: Path, values: np.ndarray, *, order: str = "<", packed: bool = False) -> None:
    """A TIFF file of 16 bits with 3 channels, which Pillow does not write."""
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    pixels = zlib.compress(pixels) if packed else pixels
    shorts = {256: width, 257: height, 259: 8 if packed else 1, 262: 2, 277: channels, 278: height}
    offset = 8 + 2 + 12 * 9 + 4  # where the directory ends
    longs = {273: offset + 6, 279: len(pixels)}
    entries = [(tag, 3, 1, struct.pack(f"{order}HH", value, 0)) for tag, value in shorts.items()]
    entries += [(tag, 4, 1, struct.pack(f"{order}I", value)) for tag, value in longs.items()]
    entries += [(258, 3, 3, struct.pack(f"{order}I", offset))]
    directory = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(entries))
    path.write_bytes(head + directory + bytes(4) + struct.pack(f"{order}HHH", 16, 16, 16) + pixels)


def fill_levels(root: Path, levels: dict[str, float], dtype: str, suffix: str = ".tiff", images: int = 5) -> Path:
    """Writes one folder for each level, with images of this level alone, by Pillow."""
    for name, level in levels.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            Image.fromarray(np.full((28, 28), level, dtype)).save(root / name / f"{i}{suffix}")
    return root


def levels_of(root: Path, **settings: object) -> dict[str, int]:
    """Returns the level of each class, which all its images in all splits have."""
    levels: dict[str, set[int]] = {}
    for split in ("train", "val", "test"):
        data = read(root, split, **settings)
        for image, label in zip(data.images, data.labels.tolist(), strict=True):
            levels.setdefault(data.class_names[label], set()).update(torch.unique(image).tolist())
    assert all(len(values) == 1 for values in levels.values()), levels
    return {name: values.pop() for name, values in levels.items()}


@pytest.mark.parametrize(
    ("dtype", "suffix", "dim", "bright", "white"),
    [
        ("float32", ".tiff", 100, 200, 255),
        ("float32", ".tiff", 0.25, 0.5, 1),
        ("float32", ".tiff", 0.25, 1, 1),
        ("float32", ".tiff", 0.52, 1.04, 1.04),  # resampled: a little more than 1
        ("float32", ".tiff", 300, 1000, 1023),
        ("float32", ".tiff", 1e6, 2e6, 2e6),
        ("int32", ".tiff", 100, 200, 255),
        ("int32", ".tiff", 100_000, 200_000, 200_000),
        ("int16", ".tiff", 1600, 3200, 4095),
        ("uint16", ".tiff", 1600, 3200, 4095),
        ("uint16", ".png", 1600, 3200, 4095),
        ("uint16", ".png", 400, 800, 1023),
        ("uint16", ".png", 6000, 12000, 16383),
        ("uint16", ".png", 20_000, 40_000, 65535),
        ("uint16", ".png", 0, 1, 1),  # a mask
        ("uint16", ".png", 3, 9, 9),  # region numbers
    ],
)
def test_levels_keep_their_ratio_over_the_whole_set(
    dtype: str, suffix: str, dim: float, bright: float, white: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill_levels(tmp_path / "set", {"dim": dim, "bright": bright}, dtype, suffix)
    assert levels_of(root) == {"dim": round(dim / white * 255), "bright": round(bright / white * 255)}
    highest, level = (re.escape(f"{value:.6g}") for value in (bright, white))
    pattern = rf"data\.source: .*\b10\b.* {highest}\D+{level}\b"
    assert len([message for message in caplog.messages if re.match(pattern, message)]) == 1, "once, for all splits"


COLOR: dict[str, Write] = {
    "PNG": write_png,
    "TIFF": write_tiff,
    "big-endian TIFF": lambda path, values: write_tiff(path, values, order=">"),
    "packed TIFF": lambda path, values: write_tiff(path, values, packed=True),
}


@pytest.mark.parametrize("form", COLOR)
@pytest.mark.parametrize(("top", "white"), [(65535, 65535), (4000, 4095), (900, 1023)])
def test_16_bit_colors_are_read_without_loss(form: str, top: int, white: int, tmp_path: Path) -> None:
    folder = tmp_path / "set/color"
    folder.mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, top, (20, 28, 28, 3))
    values[:, 0, 0, 0] = top
    for i, image in enumerate(values):
        COLOR[form](folder / f"{i}.img", image)
    images = torch.cat([read(tmp_path / "set", split).images for split in ("train", "val", "test")])
    expected = {(image / white * 255).round().astype(np.uint8).transpose(2, 0, 1).tobytes() for image in values}
    assert {image.numpy().tobytes() for image in images} == expected


@pytest.mark.parametrize("channels", [2, 4])
def test_16_bit_alpha_has_its_own_white_level(channels: int, tmp_path: Path) -> None:
    for name, alpha in (("opaque", 65535), ("half", 32768)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            values = np.full((28, 28, channels), 2048)
            values[..., -1] = alpha
            write_png(tmp_path / "set" / name / f"{i}.png", values)
    levels = levels_of(tmp_path / "set", channels=3)
    assert levels["opaque"] == pytest.approx(2048 / 4095 * 255, abs=1)
    assert levels["half"] == pytest.approx(1024 / 4095 * 255, abs=1)
    data = read(tmp_path / "set")
    assert data.shape == (4, 28, 28)
    assert data.class_names == ("half", "opaque")
    assert data.images[:, 3, 0, 0].tolist() == [128, 255], "one image of each class"


def test_8_bit_and_deeper_files_may_be_mixed(tmp_path: Path) -> None:
    root = fill_levels(tmp_path / "set", {"a": 128}, "uint8", ".png")
    fill_levels(root, {"b": 2048, "c": 4000}, "uint16", ".png")
    fill_levels(root, {"d": 0.5, "e": 1}, "float32")
    fill_levels(root, {"f": 128, "g": 200}, "int32")
    assert levels_of(root) == {"a": 128, "b": 128, "c": 249, "d": 128, "e": 255, "f": 128, "g": 200}


def test_the_white_level_is_logged_again_when_the_images_come_from_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill_levels(tmp_path / "set", {"dim": 1000, "bright": 3000}, "uint16", ".png")
    other = fill_levels(tmp_path / "other", {"x": 7, "y": 8}, "uint8", ".png")
    read(root)
    read(other)  # replaces the first data set in the memory cache, which holds one
    caplog.clear()
    read(root)
    assert any(re.search(r"^data\.source: .*\b4095\b", message) for message in caplog.messages)
    assert "reading" not in caplog.text


@pytest.mark.parametrize(("value", "reason"), [(-1.0, r"-1\b.*\b0\.5"), (np.nan, r"\b1\b.*\b784\b.*\bNaN\b")])
def test_files_with_negative_or_nan_values_are_named_and_can_be_skipped(
    value: float, reason: str, tmp_path: Path
) -> None:
    root = fill_levels(tmp_path / "set", {"dim": 0.25, "bright": 0.5}, "float32")
    pixels = np.full((28, 28), 0.5, np.float32)
    pixels[3, 4] = value
    Image.fromarray(pixels).save(root / "dim/odd.tiff")
    with pytest.raises(DataError, match=rf"{re.escape(str(root / 'dim/odd.tiff'))}: .*{reason}"):
        read(root)
    assert levels_of(root, skip_corrupt=True) == {"dim": 64, "bright": 128}


@pytest.mark.parametrize(("dtype", "white"), [("uint16", 4095), ("float32", 1.0)])
def test_images_whose_zero_is_white_are_inverted(dtype: str, white: float, tmp_path: Path) -> None:
    for name, share in (("dark", 1.0), ("bright", 0.25)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(5):
            image = Image.fromarray(np.full((28, 28), share * white, dtype))
            image.save(tmp_path / "set" / name / f"{i}.tiff", tiffinfo={262: 0})
    assert levels_of(tmp_path / "set") == {"dark": 0, "bright": 191}


def test_unsigned_32_bit_integers_are_read_without_sign(tmp_path: Path) -> None:
    for name, level in (("dim", 1 << 30), ("bright", (1 << 32) - 1)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(5):
            path = tmp_path / "set" / name / f"{i}.tiff"
            Image.fromarray(np.full((28, 28), level, np.uint32).view(np.int32)).save(path)
            content = path.read_bytes()  # Pillow writes SampleFormat 2: signed
            signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))
            assert signed in content
            path.write_bytes(content.replace(signed, unsigned))
    assert levels_of(tmp_path / "set") == {"dim": 64, "bright": 255}


def test_16_bit_planes_are_refused_with_the_layout_that_is_expected(tmp_path: Path) -> None:
    root = fill_levels(tmp_path / "set", {"dim": 100, "bright": 200}, "uint8", ".png")
    write_tiff(root / "dim/odd.tiff", np.zeros((28, 28, 3), np.uint16))
    content = (root / "dim/odd.tiff").read_bytes()
    (root / "dim/odd.tiff").write_bytes(content.replace(struct.pack("<HHIHH", 278, 3, 1, 28, 0), PLANES, 1))
    with pytest.raises(DataError, match=r"/dim/odd\.tiff: .*\b16\b.*PlanarConfiguration 1"):
        read(root)


def test_a_damaged_file_does_not_change_the_white_level(tmp_path: Path) -> None:
    root = fill_levels(tmp_path / "set", {"dim": 1000, "bright": 3000}, "uint16", ".png")
    whole = np.full((28, 28), 65535, np.uint16)
    Image.fromarray(whole).save(root / "dim/half.png")
    content = (root / "dim/half.png").read_bytes()
    (root / "dim/half.png").write_bytes(content[: len(content) // 2])
    assert levels_of(root, skip_corrupt=True) == {"dim": 62, "bright": 187}


def test_worker_processes_compute_the_same_white_level(tmp_path: Path) -> None:
    root = fill_levels(tmp_path / "set", {"dim": 1000, "bright": 3000}, "uint16", ".png", images=70)
    assert levels_of(root, num_workers=2) == {"dim": 62, "bright": 187}
