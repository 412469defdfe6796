"""Turns an image file into pixels: upright, on black, square, 8 bits a channel.

Pillow reads the files. Three things are done apart from it:

- Only the orientation is taken from the EXIF note; the rest of a note may be damaged.
- A PNG, JPEG or TIFF file whose notes (texts, color profile, resolution) are damaged or too large is read without them.
- More than 8 bits a channel are kept until the white level of the whole data set is known (`white_level`). Pillow gives
  colors of 16 bits by their upper bytes alone; the lower bytes are read by a second pass.
"""

import io
import re
import sys
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFile

_ORIENTATION = 0x0112  # a tag of EXIF and TIFF
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
# tags of TIFF that say how its pixels are stored: sizes, bits, compression, offsets, tiles, palette, JPEG tables, YCbCr
_PIXEL_TAGS = {*range(254, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), 332,
               338, 339, 347, *range(512, 522), *range(529, 533)}  # fmt: skip
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE_LEVELS = (1, 255, 1023, 4095, 16383, 65535)  # floats; 8, 10, 12, 14 and 16 bits
_DARKEST = 16  # a white level beyond this multiple of the largest value would leave the images black
_PNG = b"\x89PNG\r\n\x1a\n"
# types of numbers by the beginning of Pillow's modes; "I" holds integers of any other size
_KINDS = {"I;16": "16-bit integers", "I": "integers", "F": "floats"}
_RAW_16 = re.compile(r"(?P<bands>RGB|RGBX|RGBA|CMYK|LA);16(?P<order>[BLN])")  # Pillow's names of bytes in a file
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class ImageFaultError(ValueError):
    """An image file that is refused; the message says what was found and how to mend the file."""


@dataclass(frozen=True)
class Levels:
    """Number type and range of the values of an image with more than 8 bits a channel."""

    kind: str
    low: float
    high: float


@dataclass(frozen=True)
class DeepImage:
    """An image with more than 8 bits a channel."""

    kind: str  # of numbers: images of one kind share a white level
    mode: str  # Pillow's, once the values have 8 bits: L, RGB, RGBA or CMYK
    values: np.ndarray  # [H, W] or [H, W, channels]
    inverted: bool = False  # whether 0 is white, as in X-ray images

    def levels(self) -> Levels:
        """The range of the values, alpha left out.

        Raises:
            ImageFaultError: some values are NaN or infinite.
        """
        values = self.values[..., :3] if self.mode == "RGBA" else self.values
        if broken := int(values.size - np.isfinite(values).sum()):
            raise ImageFaultError(
                f"{broken} of its {values.size} values are NaN or infinite; expected finite values from 0 upwards."
                " Replace them, for instance by 0"
            )
        return Levels(self.kind, float(values.min()), float(values.max()))

    def to_eight_bits(self, white: float) -> Image.Image:
        """The image with 0 … `white` as 0 … 255."""
        values = 1 - self.values / white if self.inverted else self.values / white
        if self.mode == "RGBA" and self.values[..., 3].max() > white:  # color of 12 bits may have alpha of 16
            values[..., 3] = self.values[..., 3] / 65535
        pixels = (values * 255).round().clip(0, 255).astype(np.uint8)
        return Image.frombytes(self.mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())


def white_level(high: float) -> float:
    """The value that becomes white in images whose largest value is `high`: the largest of its type or number of bits,
    or `high` itself where that would leave the images nearly black or where no such type is known."""
    for white in _WHITE_LEVELS:
        if high <= white <= _DARKEST * high:
            return float(white)
    return high if high > 0 else 1.0


def to_square(image: Image.Image, size: int, *, grey: bool) -> np.ndarray:
    """The central square of an image on black as uint8 [3, size, size]; three equal channels with `grey`."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    image = image.convert("L" if grey else "RGB").convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1))


def read_image(path: Path) -> tuple[Image.Image | DeepImage, str]:
    """Reads an image file, turned upright.

    Returns:
        The image, and the fault of its notes that was passed over, if there was one.

    Raises:
        ImageFaultError: it has too many pixels.
        OSError, ValueError, …: any fault that Pillow finds with it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged notes, and of many pixels below Pillow's limit
        try:
            return _read(lambda: Image.open(path))
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            raise ImageFaultError(
                f"{int(pixels[0]) if pixels else 0:,} pixels, expected {2 * (Image.MAX_IMAGE_PIXELS or 0):,} or fewer;"
                " save it in a smaller size"
            ) from error
        except Exception as error:
            bare = _without_notes(path)
            if bare is None:
                raise
            try:
                image, _ = _read(lambda: Image.open(io.BytesIO(bare)))
            except Exception:  # then it is not the notes: the first fault is the file's
                raise error from None
            return image, f"{type(error).__name__}: {error}"


def _read(open_file: Callable[[], Image.Image]) -> tuple[Image.Image | DeepImage, str]:
    with open_file() as image:
        raw = _raw_mode_of_16_bits(image)
        tags = getattr(image, "tag_v2", {})  # of TIFF
        bits = tags.get(_BITS, (1,))
        if tags.get(_PLANES) == 2 and len(bits) > 1 and max(bits) > 8:  # Pillow takes their bytes for pixels
            raise ImageFaultError(
                f"found planes of {max(bits)} bits, one for each color; expected the colors of a pixel side by side"
                " (PlanarConfiguration 1). Save it that way"
            )
        if raw is None:
            upright, fault = _load(image)
            kind = next((kind for mode, kind in _KINDS.items() if upright.mode.startswith(mode)), None)
            if kind is None:
                return upright, fault
            values = np.asarray(upright)
            if values.dtype == np.int32 and bits == (32,) and tags.get(_SAMPLE_FORMAT, (1,)) == (1,):
                values = values.view(np.uint32)  # Pillow's mode I is signed
            return DeepImage(kind, "L", values, inverted=tags.get(_PHOTOMETRIC) == 0), fault
        if raw["bands"] == "LA":
            _set_raw_mode(image, "RGBA")  # the four bytes of a pixel as they are
        first, fault = _load(image)
    upper = np.asarray(first).astype(np.uint16) << 8
    if raw["bands"] == "LA":
        grey_alpha = upper[..., ::2] | np.asarray(first)[..., 1::2]
        return DeepImage(_KINDS["I;16"], "RGBA", grey_alpha[..., [0, 0, 0, 1]]), fault
    with open_file() as image:  # Pillow keeps the upper byte of each pair: here in the other order, the lower one
        _set_raw_mode(image, f"{raw['bands']};16{_SWAPPED[raw['order']]}")
        lower, _ = _load(image)
    return DeepImage(_KINDS["I;16"], first.mode, upper | np.asarray(lower)), fault


def _raw_mode_of_16_bits(image: Image.Image) -> re.Match[str] | None:
    """Bands and byte order of the values in a file, where there are several bands of 16 bits."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return None
    arguments = image.tile[0].args
    return _RAW_16.fullmatch(str(arguments if isinstance(arguments, str) else (arguments or ("",))[0]))


def _set_raw_mode(image: Image.Image, mode: str) -> None:
    """Makes Pillow decode an opened file as values of the raw mode `mode`."""
    assert isinstance(image, ImageFile.ImageFile), "it has tiles"
    tiles = [(tile, tile.args) for tile in image.tile]
    image.tile = [tile._replace(args=(mode, *old[1:]) if isinstance(old, tuple) else mode) for tile, old in tiles]


def _load(image: Image.Image) -> tuple[Image.Image, str]:
    """The pixels, turned upright, and the fault of the notes that was passed over, if there was one."""
    faults: list[str] = []
    if isinstance(image, ImageFile.ImageFile) and image.format == "TIFF":
        finish = image.load_end

        def tolerant() -> None:  # the pixels are there: Pillow only reads notes here, and turns the image
            try:
                finish()
            except Exception as error:
                faults.append(f"{type(error).__name__}: {error}")

        image.load_end = tolerant  # type: ignore[method-assign]
    image.load()
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception as error:  # Pillow has many; whatever is wrong with the note, the image is not
        faults.append(f"{type(error).__name__}: {error}")
        method = None
    # a copy has the size of the pixels, also where Pillow failed before it turned a TIFF image
    return image.copy() if method is None else image.transpose(method), "; ".join(faults)


def _without_notes(path: Path) -> bytes | None:
    """The bytes of the file without the notes that Pillow reads; None where there are none to leave out."""
    with path.open("rb") as file:
        head = file.read(len(_PNG))
        make_bare = next((make for start, make in _BARE.items() if head.startswith(start)), None)
        if make_bare is None:
            return None
        content = head + file.read()
    bare = make_bare(content)
    return bare if bare != content else None


def _bare_jpeg(content: bytes) -> bytes:
    """All but comments and application segments; of these EXIF and Adobe (the kind of colors) stay."""
    kept, position = [content[:2]], 2
    while (marker := content[position + 1 : position + 2]) and content[position] == 0xFF and marker != b"\xda":
        size = 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position : position + size]
        note = marker == b"\xfe" or (b"\xe0" <= marker <= b"\xef" and not segment[4:].startswith((b"Exif\0", b"Adobe")))
        kept += [] if note else [segment]
        position += size
    return b"".join(kept) + content[position:]


def _bare_png(content: bytes) -> bytes:
    """Only the chunks that make up the pixels, and the orientation where its checksum is right."""
    kept, position = [_PNG], len(_PNG)
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunk = content[position : position + 12 + length]
        kind, sound = chunk[4:8], zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND") or (kind == b"eXIf" and sound):
            kept.append(chunk)
        position += len(chunk)
    return b"".join(kept)


def _bare_tiff(content: bytes) -> bytes:
    """Empties all entries of the first directory except those that describe the pixels."""
    bare = bytearray(content)
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
    empty = b"".join(number.to_bytes(size, order) for number, size in ((0xFFFF, 2), (1, 2), (1, 4), (0, 4)))
    start = int.from_bytes(content[4:8], order)
    entries = int.from_bytes(content[start : start + 2], order)
    for place in range(start + 2, min(start + 2 + 12 * entries, len(content) - 12), 12):
        if int.from_bytes(content[place : place + 2], order) not in _PIXEL_TAGS:
            bare[place : place + 12] = empty
    return bytes(bare)


_BARE: dict[bytes, Callable[[bytes], bytes]] = {
    _PNG: _bare_png,
    b"\xff\xd8": _bare_jpeg,
    b"II*\0": _bare_tiff,
    b"MM\0*": _bare_tiff,
}
