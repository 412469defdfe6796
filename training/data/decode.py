"""Decodes one image with Pillow: upright, square, 8 bits per channel, colors premultiplied with alpha.

Three steps go beyond Pillow:

- Only the orientation is read from EXIF; other EXIF data may be damaged.
- A PNG, JPEG or TIFF file with damaged or oversized metadata (texts, color profile, resolution) is read without it.
- More than 8 bits per channel are kept until the white level of the whole data set is known (`white_level`). Pillow
  returns only the upper bytes of 16-bit colors; a second pass reads the lower bytes.
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
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from ganctl.training.readers.file_kinds import file_kind

_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # TIFF tags
# TIFF tags of the pixel storage: sizes, bits, compression, offsets, tiles, palette, JPEG tables, YCbCr
_PIXEL_TAGS = {*range(254, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), 332,
               338, 339, 347, *range(512, 522), *range(529, 533)}  # fmt: skip
_UPRIGHT = {  # EXIF orientation → transform
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE_LEVELS = (1, 255, 1023, 4095, 16383, 65535)  # floats; 8, 10, 12, 14 and 16 bits
_MAX_WHITE_RATIO = 16  # largest accepted ratio of white level to largest value; beyond it images would be nearly black
_PNG = b"\x89PNG\r\n\x1a\n"
# number types by the prefix of Pillow's mode; "I" holds integers of any other size
_NUMBER_TYPES = {"I;16": "16-bit integers", "I": "integers", "F": "floats"}
_RAW_16 = re.compile(r"(?P<bands>RGB|RGBX|RGBA|CMYK|LA);16(?P<order>[BLN])")  # Pillow's raw modes
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class ImageError(ValueError):
    """Image file that cannot be used; the message gives the finding and the remedy."""


@dataclass(frozen=True)
class ValueRange:
    """Number type and range of the values of an image with more than 8 bits per channel."""

    number_type: str
    low: float
    high: float


@dataclass(frozen=True)
class HighDepthImage:
    """Image with more than 8 bits per channel."""

    number_type: str  # images of one number type share a white level
    mode: str  # Pillow's mode after conversion to 8 bits: L, RGB, RGBA or CMYK
    values: np.ndarray  # [H, W] or [H, W, C]
    inverted: bool = False  # True if 0 is white, as in X-ray images

    def value_range(self) -> ValueRange:
        """Returns the range of the values without alpha.

        Raises:
            ImageError: some values are NaN or infinite.
        """
        values = self.values[..., :3] if self.mode == "RGBA" else self.values
        if nonfinite := int(values.size - np.isfinite(values).sum()):
            raise ImageError(
                f"found {nonfinite} of {values.size} values that are NaN or infinite, expected finite values, 0 or"
                " above. Replace them, for instance by 0"
            )
        return ValueRange(self.number_type, float(values.min()), float(values.max()))

    def to_eight_bits(self, white: float) -> Image.Image:
        """Converts to 8 bits per channel: 0 … `white` becomes 0 … 255."""
        values = 1 - self.values / white if self.inverted else self.values / white
        if self.mode == "RGBA" and self.values[..., 3].max() > white:  # 12-bit color may have 16-bit alpha
            values[..., 3] = self.values[..., 3] / 65535
        pixels = (values * 255).round().clip(0, 255).astype(np.uint8)
        return Image.frombytes(self.mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())


def white_level(high: float) -> float:
    """Returns the value that becomes white in images whose largest value is `high`.

    It is the largest value of the number type or bit depth; `high` itself if no known depth fits, or if the images
    would become nearly black.
    """
    fallback = high if high > 0 else 1.0
    return next((float(white) for white in _WHITE_LEVELS if high <= white <= _MAX_WHITE_RATIO * high), fallback)


def from_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    """Makes an image of pixels [H, W] or [H, W, C] with 1, 3 or 4 channels."""
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def is_transparent(image: Image.Image) -> bool:
    """Returns whether a part of an image is transparent."""
    if not image.has_transparency_data:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return bool(lowest < 255)  # type: ignore[operator]  # one band has one pair of extremes


def to_square(image: Image.Image, size: int, fit: Literal["crop", "pad"]) -> NDArray[np.uint8]:
    """Makes an image square and resizes it, with Pillow's antialiased bicubic filter.

    Args:
        image: of any mode and shape.
        size: side of the result.
        fit: "crop" takes the central square; "pad" adds margins, transparent and black.

    Returns:
        uint8 [4, size, size]: red, green, blue, each multiplied by alpha / 255; and alpha.
    """
    if image.has_transparency_data:
        image = image.convert("RGBA").convert("RGBa")  # premultiplied: hidden colors must not leak into the edges
    else:
        image = image.convert("L") if image.mode == "1" else image
        image = image if image.mode == "RGB" else image.convert("RGB")
        if fit == "pad" and image.width != image.height:  # the margins are transparent
            image = image.convert("RGBA").convert("RGBa")
    side = min(image.size) if fit == "crop" else max(image.size)
    if image.size != (side, side):
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))  # beyond the image: zeros
    if side != size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    square = np.full((4, size, size), 255, np.uint8)
    pixels = np.asarray(image).transpose(2, 0, 1)
    square[: len(pixels)] = pixels
    if side != size:
        np.minimum(square[:3], square[3], out=square[:3])  # the filter overshoots at edges
    return square


def read_image(content: bytes) -> tuple[Image.Image | HighDepthImage, str]:
    """Decodes the content of an image file and rotates the image upright.

    Returns:
        The image, and the error of ignored metadata; empty if there was none.

    Raises:
        ImageError: the image has too many pixels or an unsupported layout.
        OSError, ValueError, …: Pillow cannot read the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata, and large images below Pillow's limit
        try:
            return _read(lambda: _open(content))
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            raise ImageError(
                f"found {int(pixels[0]) if pixels else 0:,} pixels, expected {2 * (Image.MAX_IMAGE_PIXELS or 0):,} or"
                " fewer. Save it in a smaller size"
            ) from error
        except Exception as error:
            stripped = _strip_metadata(content)
            if stripped is None:
                raise
            try:
                image, _ = _read(lambda: _open(stripped))
            except Exception:  # the metadata was not the cause: report the first error
                raise error from None
            return image, f"{type(error).__name__}: {error}"


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # its message names an object in memory
        damaged = content.startswith(tuple(_STRIP))
        found = "a damaged header" if damaged else file_kind(Path(), io.BytesIO(content))
        raise ImageError(f"found {found}, expected an image that Pillow can read") from None


def _read(open_file: Callable[[], Image.Image]) -> tuple[Image.Image | HighDepthImage, str]:
    with open_file() as image:
        raw = _raw_mode_of_16_bits(image)
        tags = getattr(image, "tag_v2", {})  # TIFF only
        bits = tags.get(_BITS, (1,))
        if tags.get(_PLANES) == 2 and len(bits) > 1 and max(bits) > 8:  # Pillow misreads these bytes as pixels
            raise ImageError(
                f"found planes of {max(bits)} bits, one for each color, expected interleaved colors"
                " (PlanarConfiguration 1). Save it that way"
            )
        if raw is None:
            upright, error = _load(image)
            number_type = next((name for mode, name in _NUMBER_TYPES.items() if upright.mode.startswith(mode)), None)
            if number_type is None:
                return upright, error
            values = np.asarray(upright)
            if values.dtype == np.int32 and bits == (32,) and tags.get(_SAMPLE_FORMAT, (1,)) == (1,):
                values = values.view(np.uint32)  # Pillow's mode I is signed
            return HighDepthImage(number_type, "L", values, inverted=tags.get(_PHOTOMETRIC) == 0), error
        if raw["bands"] == "LA":
            _set_raw_mode(image, "RGBA")  # keeps the four bytes of a pixel unchanged
        first, error = _load(image)
    upper = np.asarray(first).astype(np.uint16) << 8
    if raw["bands"] == "LA":
        gray_alpha = upper[..., ::2] | np.asarray(first)[..., 1::2]
        return HighDepthImage(_NUMBER_TYPES["I;16"], "RGBA", gray_alpha[..., [0, 0, 0, 1]]), error
    with open_file() as image:  # Pillow keeps one byte of each pair: in the swapped order the lower one
        _set_raw_mode(image, f"{raw['bands']};16{_SWAPPED[raw['order']]}")
        lower, _ = _load(image)
    return HighDepthImage(_NUMBER_TYPES["I;16"], first.mode, upper | np.asarray(lower)), error


def _raw_mode_of_16_bits(image: Image.Image) -> re.Match[str] | None:
    """Matches bands and byte order of Pillow's raw mode; None unless a file has several bands of 16 bits."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return None
    arguments = image.tile[0].args
    return _RAW_16.fullmatch(str(arguments if isinstance(arguments, str) else (arguments or ("",))[0]))


def _set_raw_mode(image: Image.Image, mode: str) -> None:
    """Makes Pillow decode an opened file with the raw mode `mode`."""
    assert isinstance(image, ImageFile.ImageFile), "only files have a raw mode"
    tiles = [(tile, tile.args) for tile in image.tile]
    image.tile = [tile._replace(args=(mode, *args[1:]) if isinstance(args, tuple) else mode) for tile, args in tiles]


def _load(image: Image.Image) -> tuple[Image.Image, str]:
    """Decodes the pixels and rotates them upright; returns also the error of ignored metadata, empty if none."""
    errors: list[str] = []
    if isinstance(image, ImageFile.ImageFile) and image.format == "TIFF":
        load_end = image.load_end

        def tolerant_load_end() -> None:  # the pixels are decoded; Pillow reads metadata here and rotates the image
            try:
                load_end()
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")

        image.load_end = tolerant_load_end  # type: ignore[method-assign]  # of this image alone
    image.load()
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception as error:  # Pillow raises many types for damaged EXIF; the pixels are still valid
        errors.append(f"{type(error).__name__}: {error}")
        method = None
    # the copy has the size of the pixels, even if Pillow failed before it rotated a TIFF image
    return image.copy() if method is None else image.transpose(method), "; ".join(errors)


def _strip_metadata(content: bytes) -> bytes | None:
    """Returns the bytes of a file without the metadata that Pillow reads; None if there is none to remove."""
    strip = next((strip for signature, strip in _STRIP.items() if content.startswith(signature)), None)
    stripped = strip(content) if strip else content
    return stripped if stripped != content else None


def _strip_jpeg(content: bytes) -> bytes:
    """Removes comments and application segments except EXIF and Adobe (the color space)."""
    kept, position = [content[:2]], 2
    while (marker := content[position + 1 : position + 2]) and content[position] == 0xFF and marker != b"\xda":
        size = 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position : position + size]
        is_application = b"\xe0" <= marker <= b"\xef"
        metadata = marker == b"\xfe" or (is_application and not segment[4:].startswith((b"Exif\0", b"Adobe")))
        kept += [] if metadata else [segment]
        position += size
    return b"".join(kept) + content[position:]


def _strip_png(content: bytes) -> bytes:
    """Keeps only the chunks of the pixels, and EXIF with a valid checksum."""
    kept, position = [_PNG], len(_PNG)
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunk = content[position : position + 12 + length]
        kind, valid = chunk[4:8], zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND") or (kind == b"eXIf" and valid):
            kept.append(chunk)
        position += len(chunk)
    return b"".join(kept)


def _strip_tiff(content: bytes) -> bytes:
    """Blanks all entries of the first directory except those that describe the pixels."""
    stripped = bytearray(content)
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
    blank = b"".join(number.to_bytes(size, order) for number, size in ((0xFFFF, 2), (1, 2), (1, 4), (0, 4)))
    start = int.from_bytes(content[4:8], order)
    entries = int.from_bytes(content[start : start + 2], order)
    for offset in range(start + 2, min(start + 2 + 12 * entries, len(content) - 12), 12):
        if int.from_bytes(content[offset : offset + 2], order) not in _PIXEL_TAGS:
            stripped[offset : offset + 12] = blank
    return bytes(stripped)


_STRIP: dict[bytes, Callable[[bytes], bytes]] = {  # by signature
    _PNG: _strip_png,
    b"\xff\xd8": _strip_jpeg,
    b"II*\0": _strip_tiff,
    b"MM\0*": _strip_tiff,
}
