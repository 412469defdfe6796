"""Notes in image files (EXIF, XMP, texts, color profiles) may be damaged or huge: the image is taken all the same."""

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
TURN_RIGHT = 6  # the orientation that wants a turn by 90° clockwise


def entry(tag: int, kind: int, number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, number) + value


ORIENTATION = entry(0x0112, 3, 1, struct.pack("<HH", TURN_RIGHT, 0))


def exif(*entries: bytes, rest: bytes = b"") -> bytes:
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + rest


def jpeg(note: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "JPEG", quality=95)
    raw = buffer.getvalue()
    return raw[:2] + b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note + raw[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, last: bool = False) -> bytes:
    """A PNG file with chunks after its header, or before its end."""
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "PNG")
    raw = buffer.getvalue()
    place = -12 if last else 33
    return raw[:place] + b"".join(chunks) + raw[place:]


def webp(note: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "WEBP", lossless=True, exif=note)
    return buffer.getvalue()


def is_turned(path: Path, content: bytes) -> bool:
    """Whether the image was turned; without a warning, which Pillow has for many notes."""
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(path, 28, gray=False)
    turned = bool(pixels[0, :, 20].min() > 240 and pixels[0, :, 5].max() < 15)
    assert turned or (pixels[0, 5].min() > 240 and pixels[0, 20].max() < 15), "neither turned nor upright"
    return turned


END = 8 + 2 + 2 * 12 + 4  # of a directory of two entries
SOUND = {
    "a zero denominator": exif(ORIENTATION, entry(0x011A, 5, 1, struct.pack("<I", END)), rest=bytes(8)),
    "a resolution that is text": exif(ORIENTATION, entry(0x011A, 2, 4, b"72/1")),
    "two resolutions": exif(ORIENTATION, entry(0x011A, 3, 2, struct.pack("<HH", 72, 72))),
    "two headers": b"Exif\0\0" + exif(ORIENTATION),
    "a directory in a loop": exif(ORIENTATION, entry(0x8769, 4, 1, struct.pack("<I", 8))),
    "a value beyond the end": exif(ORIENTATION, entry(0x010F, 2, 1 << 20, struct.pack("<I", 1 << 20))),
    "an unknown type of number": exif(ORIENTATION, entry(0x010F, 99, 1, bytes(4))),
}
UNSOUND = {
    "cut off": exif(ORIENTATION)[:24],
    "garbage": b"Exif\0\0" + bytes(range(60)),
    "nothing": b"Exif\0\0",
    "an orientation that is text": exif(entry(0x0112, 2, 2, b"6\0\0\0")),
    "an orientation that is no number of one": exif(entry(0x0112, 3, 1, struct.pack("<HH", 77, 0))),
    "a directory far away": b"Exif\0\0II*\0" + struct.pack("<I", 1 << 30),
}
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "jpg": jpeg,
    "png": lambda note: png(chunk(b"eXIf", note.removeprefix(b"Exif\0\0"))),
    "webp": webp,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", SOUND)
def test_an_image_is_turned_whatever_else_is_wrong_with_its_note(damage: str, form: str, tmp_path: Path) -> None:
    assert is_turned(tmp_path / "a.img", FORMS[form](SOUND[damage]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", UNSOUND)
def test_an_image_without_a_sound_orientation_is_taken_unturned(damage: str, form: str, tmp_path: Path) -> None:
    assert not is_turned(tmp_path / "a.img", FORMS[form](UNSOUND[damage]))


def test_an_orientation_in_xmp_counts(tmp_path: Path) -> None:
    note = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert is_turned(tmp_path / "a.jpg", jpeg(note))


@pytest.mark.parametrize("tag", [0x011A, 0x0131, 0x8769, 0x8825])
def test_a_tiff_image_with_a_damaged_note_is_turned(tag: int, tmp_path: Path) -> None:
    """Pillow reads the notes of TIFF files when it opens them, and more of them after the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "TIFF")
    raw = bytearray(buffer.getvalue())
    (start,) = struct.unpack("<I", raw[4:8])
    (number,) = struct.unpack("<H", raw[start : start + 2])
    places = range(start + 2, start + 2 + 12 * number, 12)
    entries = {struct.unpack("<H", raw[place : place + 2])[0]: bytes(raw[place : place + 12]) for place in places}
    entries |= {0x0112: ORIENTATION, 0x0128: entry(0x0128, 3, 1, struct.pack("<HH", 3, 0))}
    entries[tag] = entry(tag, 2, 4, b"odd\0")
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    assert is_turned(tmp_path / "a.tiff", bytes(raw[:4]) + struct.pack("<I", len(raw)) + bytes(raw[8:]) + directory)


@pytest.mark.parametrize("note", [(0xE0, b"JFIF\0"), (0xE2, b"ICC_PROFILE\0")])
def test_a_jpeg_image_with_a_note_that_is_cut_off_is_turned(note: tuple[int, bytes], tmp_path: Path) -> None:
    number, content = note
    raw = jpeg(exif(ORIENTATION))
    segment = b"\xff" + bytes([number]) + struct.pack(">H", len(content) + 2) + content
    assert is_turned(tmp_path / "a.jpg", raw[:2] + segment + raw[2:])


HUGE = zlib.compress(b"x" * (2 << 20))
TEXTS = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + HUGE),
    "iTXt": chunk(b"iTXt", b"parameters\0\x01\0\0\0" + HUGE),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + HUGE),
    "a wrong checksum": chunk(b"tEXt", b"Comment\0text")[:-1] + b"?",
}


@pytest.mark.parametrize(("text", "last"), [*((text, False) for text in TEXTS), ("zTXt", True), ("iTXt", True)])
def test_a_png_image_with_a_text_that_is_huge_or_damaged_is_taken(text: str, last: bool, tmp_path: Path) -> None:
    turned = chunk(b"eXIf", exif(ORIENTATION).removeprefix(b"Exif\0\0"))
    assert is_turned(tmp_path / "a.png", png(TEXTS[text], turned, last=last))


def test_what_was_passed_over_is_told(tmp_path: Path, data_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fill(tmp_path / "pets")
    (root / "cat/huge.png").write_bytes(png(TEXTS["zTXt"]))
    assert count(root) == 41
    (line,) = [message for message in caplog.messages if "that cannot be read is ignored (1 files)" in message]
    assert str(root / "cat/huge.png") in line


def test_pixels_are_never_invented(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets")
    raw = png(TEXTS["zTXt"])
    (root / "cat/half.png").write_bytes(raw[: len(raw) - 40])
    with pytest.raises(DataError, match=r"cat/half.png: "):
        count(root)


def test_an_image_with_too_many_pixels_is_told_with_the_way_to_mend_it(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets")
    Image.new("1", (20_000, 10_000)).save(root / "cat/poster.png")
    with pytest.raises(DataError, match=r"200,000,000 pixels, expected 178,956,970 or fewer\. Save it"):
        count(root)
    assert count(root, skip_corrupt=True) == 40
