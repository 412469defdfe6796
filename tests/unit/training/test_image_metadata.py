"""Images with damaged or huge metadata (EXIF, XMP, texts, color profiles) are read; the orientation is applied."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.training.errors import DataError
from tests.unit.training.decoded import decode
from tests.unit.training.folders import count, fill

UPRIGHT = np.zeros((28, 28, 3), np.uint8)
UPRIGHT[:14] = 255  # the upper half is white
ROTATE_RIGHT = 6  # EXIF orientation: rotate by 90° clockwise


def entry(tag: int, kind: int, number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, number) + value


ORIENTATION = entry(0x0112, 3, 1, struct.pack("<HH", ROTATE_RIGHT, 0))


def exif(*entries: bytes, rest: bytes = b"") -> bytes:
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + rest


def jpeg(metadata: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "JPEG", quality=95)
    raw = buffer.getvalue()
    return raw[:2] + b"\xff\xe1" + struct.pack(">H", len(metadata) + 2) + metadata + raw[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, last: bool = False) -> bytes:
    """Returns a PNG file with chunks after its header or, with `last`, before its end."""
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "PNG")
    raw = buffer.getvalue()
    position = -12 if last else 33
    return raw[:position] + b"".join(chunks) + raw[position:]


def webp(metadata: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "WEBP", lossless=True, exif=metadata)
    return buffer.getvalue()


def is_rotated(path: Path, content: bytes) -> bool:
    """Decodes an image and returns whether it was rotated; a warning, such as Pillow's about metadata, fails."""
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(path)
    rotated = bool(pixels[0, :, 20].min() > 240 and pixels[0, :, 5].max() < 15)
    assert rotated or (pixels[0, 5].min() > 240 and pixels[0, 20].max() < 15), "neither rotated nor upright"
    return rotated


END = 8 + 2 + 2 * 12 + 4  # offset behind a directory of two entries
VALID_ORIENTATION = {
    "a zero denominator": exif(ORIENTATION, entry(0x011A, 5, 1, struct.pack("<I", END)), rest=bytes(8)),
    "a resolution that is text": exif(ORIENTATION, entry(0x011A, 2, 4, b"72/1")),
    "two resolutions": exif(ORIENTATION, entry(0x011A, 3, 2, struct.pack("<HH", 72, 72))),
    "two headers": b"Exif\0\0" + exif(ORIENTATION),
    "a directory in a loop": exif(ORIENTATION, entry(0x8769, 4, 1, struct.pack("<I", 8))),
    "a value beyond the end": exif(ORIENTATION, entry(0x010F, 2, 1 << 20, struct.pack("<I", 1 << 20))),
    "an unknown type of number": exif(ORIENTATION, entry(0x010F, 99, 1, bytes(4))),
}
INVALID_ORIENTATION = {
    "truncated": exif(ORIENTATION)[:24],
    "garbage": b"Exif\0\0" + bytes(range(60)),
    "empty": b"Exif\0\0",
    "an orientation that is text": exif(entry(0x0112, 2, 2, b"6\0\0\0")),
    "an unknown orientation": exif(entry(0x0112, 3, 1, struct.pack("<HH", 77, 0))),
    "a directory beyond the end": b"Exif\0\0II*\0" + struct.pack("<I", 1 << 30),
}
FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "jpg": jpeg,
    "png": lambda metadata: png(chunk(b"eXIf", metadata.removeprefix(b"Exif\0\0"))),
    "webp": webp,
}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("damage", VALID_ORIENTATION)
def test_an_image_is_rotated_although_other_metadata_is_damaged(damage: str, file_format: str, tmp_path: Path) -> None:
    assert is_rotated(tmp_path / "a.img", FORMATS[file_format](VALID_ORIENTATION[damage]))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("damage", INVALID_ORIENTATION)
def test_an_image_with_an_invalid_orientation_is_not_rotated(damage: str, file_format: str, tmp_path: Path) -> None:
    assert not is_rotated(tmp_path / "a.img", FORMATS[file_format](INVALID_ORIENTATION[damage]))


def test_an_orientation_in_xmp_rotates_the_image(tmp_path: Path) -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert is_rotated(tmp_path / "a.jpg", jpeg(xmp))


@pytest.mark.parametrize("tag", [0x011A, 0x0131, 0x8769, 0x8825])
def test_a_tiff_image_with_a_damaged_tag_is_rotated(tag: int, tmp_path: Path) -> None:
    """Pillow reads some tags of a TIFF file when it opens it, and others after the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "TIFF")
    raw = bytearray(buffer.getvalue())
    (start,) = struct.unpack("<I", raw[4:8])
    (number,) = struct.unpack("<H", raw[start : start + 2])
    offsets = range(start + 2, start + 2 + 12 * number, 12)
    entries = {struct.unpack("<H", raw[offset : offset + 2])[0]: bytes(raw[offset : offset + 12]) for offset in offsets}
    entries |= {0x0112: ORIENTATION, 0x0128: entry(0x0128, 3, 1, struct.pack("<HH", 3, 0))}
    entries[tag] = entry(tag, 2, 4, b"odd\0")
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    assert is_rotated(tmp_path / "a.tiff", bytes(raw[:4]) + struct.pack("<I", len(raw)) + bytes(raw[8:]) + directory)


@pytest.mark.parametrize(("marker", "content"), [(0xE0, b"JFIF\0"), (0xE2, b"ICC_PROFILE\0")])
def test_a_jpeg_image_with_a_truncated_segment_is_rotated(marker: int, content: bytes, tmp_path: Path) -> None:
    raw = jpeg(exif(ORIENTATION))
    segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
    assert is_rotated(tmp_path / "a.jpg", raw[:2] + segment + raw[2:])


HUGE = zlib.compress(b"x" * (2 << 20))
TEXTS = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + HUGE),
    "iTXt": chunk(b"iTXt", b"parameters\0\x01\0\0\0" + HUGE),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + HUGE),
    "a wrong checksum": chunk(b"tEXt", b"Comment\0text")[:-1] + b"?",
}


@pytest.mark.parametrize(("text", "last"), [*((text, False) for text in TEXTS), ("zTXt", True), ("iTXt", True)])
def test_a_png_image_with_a_huge_or_damaged_text_is_rotated(text: str, last: bool, tmp_path: Path) -> None:
    orientation = chunk(b"eXIf", exif(ORIENTATION).removeprefix(b"Exif\0\0"))
    assert is_rotated(tmp_path / "a.png", png(TEXTS[text], orientation, last=last))


def test_ignored_metadata_is_reported_with_an_example_file(
    tmp_path: Path, data_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    (root / "cat/huge.png").write_bytes(png(TEXTS["zTXt"]))
    assert count(root) == 41
    (line,) = [message for message in caplog.messages if str(root / "cat/huge.png") in message]
    assert "metadata" in line
    assert "(1 files)" in line


def test_a_truncated_image_is_an_error_that_names_the_file(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets")
    raw = png(TEXTS["zTXt"])
    (root / "cat/truncated.png").write_bytes(raw[: len(raw) - 40])
    with pytest.raises(DataError, match=r"cat/truncated\.png: "):
        count(root)


def test_the_error_for_an_image_with_too_many_pixels_names_number_and_limit(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets")
    Image.new("1", (20_000, 10_000)).save(root / "cat/poster.png")
    with pytest.raises(DataError, match=r"cat/poster\.png: .*\b200,000,000\b.*\b178,956,970\b"):
        count(root)
    assert count(root, skip_corrupt=True) == 40
