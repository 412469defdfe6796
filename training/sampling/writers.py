"""Output files of `ganctl sample`: pictures, arrays, folders and animations; and the reading of arrays."""

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganctl import __version__
from ganctl.common.pixels import to_npz_layout
from ganctl.files import add_path_to_errors, new_folder, write_file
from ganctl.training.config.schema import DataSettings
from ganctl.training.errors import DataError
from ganctl.training.images.pictures import ENLARGEMENT, encode, encode_animation, tile, to_picture
from ganctl.training.readers.arrays import to_channels_last
from ganctl.training.readers.file_kinds import ARRAY_FILE_ERRORS, file_kind
from ganctl.training.sampling.animation import Animation
from ganctl.training.sampling.inspection import OpenedSource
from ganctl.training.sampling.request import SampleRequestError, SampleResult

_MIN_IMAGES = 10  # fewer cannot be scored
_CHANNELS = (1, 3, 4)  # possible numbers of channels
_EXPECTED_ARRAYS = "expected `images` and `labels` as 'ganctl sample --out FILE.npz' writes them"
_SUFFIXES = (".png", ".webp", ".gif", ".npz", "")
_FRAME_ENLARGEMENT = 4  # a frame is a single image, which is small
_FRAME_MS = 50
_WEBP_SIDE = 16_383  # pixels; limit of the format


def check_output_path(out: Path, *, frames: int | None = None) -> bool:
    """Checks the path of --out; returns True if it is an animation: a .gif, or a .webp with `frames`.

    Raises:
        SampleRequestError: `out` has an unknown suffix or cannot be written, or `frames` is given for no animation.
    """
    if out.suffix not in _SUFFIXES:
        raise SampleRequestError(f"--out {out}: expected a name ending in .png, .webp, .gif or .npz, or a folder")
    if frames is not None and out.suffix not in (".gif", ".webp"):
        raise SampleRequestError(f"--frames {frames}: --out {out} is no animation, expected a .gif or a .webp")
    if out.suffix and out.is_dir():
        raise SampleRequestError(f"--out {out}: found a folder, expected a file")
    if not out.suffix and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SampleRequestError(f"--out {out}: it exists already, expected a new or an empty folder. Name another one")
    return out.suffix == ".gif" or frames is not None


def save(result: SampleResult, out: Path) -> None:
    """Writes images to `out` atomically.

    The suffix gives the format: .png or .webp (one lossless picture), .npz (`images` uint8 [N, H, W], or [N, C, H, W]
    with 3 or 4 channels, and `labels` int64 [N] of a conditional generator), or none (a folder of PNG files with
    `labels.csv`). Alpha is the last channel, and colors are not multiplied with it.

    Raises:
        SampleRequestError: another suffix, or a picture too large for WebP.
    """
    check_output_path(out)
    if out.suffix in (".png", ".webp"):
        pixels = tile(result.images.transpose(0, 3, 1, 2), columns=result.columns)
        if out.suffix == ".webp" and (side := max(pixels.shape[:2]) * ENLARGEMENT) > _WEBP_SIDE:
            found = f"the picture would be {side:,} pixels long, expected at most {_WEBP_SIDE:,} for a WebP"
            raise SampleRequestError(f"--out {out}: {found}. Name a .png, or request fewer images")
        write_file(out, encode(to_picture(pixels, ENLARGEMENT), out.suffix[1:]))
    elif out.suffix == ".npz":
        buffer = io.BytesIO()
        labels: dict[str, Any] = {} if result.labels is None else {"labels": result.labels}
        np.savez_compressed(buffer, images=to_npz_layout(result.images), **labels)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.comment = f"ganctl {__version__}".encode()
        write_file(out, buffer.getvalue())
    else:
        assert not out.suffix, "animations are written by save_animation"
        with new_folder(out) as folder:
            _save_folder(result, folder)
            check_output_path(out)  # again: files written to it in the meantime would be deleted


def save_animation(animation: Animation, out: Path) -> None:
    """Writes an animation to `out`, .gif or .webp, atomically, at 20 frames per second."""
    frames = [to_picture(frame, _FRAME_ENLARGEMENT) for frame in animation.frames]
    write_file(out, encode_animation(frames, kind=out.suffix[1:].upper(), durations=_FRAME_MS))


def open_images(path: Path) -> OpenedSource:
    """Opens the images and labels of a .npz file that `save` wrote; the channels may also be the last axis.

    The file does not name a data set: the data settings are the defaults, MNIST.

    Raises:
        DataError: the file is absent, damaged or of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays.get("labels")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {_EXPECTED_ARRAYS}. Check the path") from None
    except KeyError:
        with path.open("rb") as file:
            raise DataError(f"{path}: found {file_kind(path, file)}; {_EXPECTED_ARRAYS}") from None
    except (*ARRAY_FILE_ERRORS, TypeError, AttributeError, IsADirectoryError) as error:
        raise DataError(f"{path}: {error}; {_EXPECTED_ARRAYS}") from error
    if reason := _check_images(images) or _check_labels(labels, len(images)):
        raise DataError(f"{path}: {reason}")
    images = images[..., None] if images.ndim == 3 else to_channels_last(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    label_tensor, facts = None if labels is None else torch.from_numpy(labels), {"images_in_file": len(images)}
    return OpenedSource(DataSettings(), images=pixels, labels=label_tensor, facts=facts)


def _check_images(images: np.ndarray) -> str | None:
    """Returns the error of images that cannot be scored, or None."""
    found, expected = f"found images {images.dtype} {images.shape}", "uint8 [N, H, W] or [N, C, H, W]"
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) < _MIN_IMAGES:
        hint = ". Convert [0, 1] by (images * 255).round().astype('uint8')" if images.dtype.kind == "f" else ""
        return f"{found}, expected {expected} with at least {_MIN_IMAGES} images{hint}"
    if images.ndim == 4 and to_channels_last(images).shape[3] not in _CHANNELS:
        return f"{found}, expected {expected} with 1, 3 or 4 channels. Reshape the array"
    return None


def _check_labels(labels: np.ndarray | None, n: int) -> str | None:
    """Returns the error of labels that do not belong to n images, or None."""
    if labels is None or (labels.dtype == np.int64 and labels.shape == (n,)):
        return None
    convertible = labels.dtype.kind in "iu" and labels.shape[:1] == (n,) and labels.size == n
    hint = ". Convert them by labels.reshape(-1).astype('int64')" if convertible else ""
    return f"found labels {labels.dtype} {labels.shape}, expected int64 ({n},){hint}"


def _save_folder(result: SampleResult, folder: Path) -> None:
    rows = [("file", "label")]
    for i, image in enumerate(result.images):
        label = "" if result.labels is None else str(result.labels[i])
        name = f"{i:06d}{'-' if label else ''}{label}.png"
        with add_path_to_errors(folder / name):
            (folder / name).write_bytes(encode(to_picture(image), "png"))
        rows.append((name, label))
    table = io.StringIO(newline="")
    csv.writer(table).writerows(rows)
    write_file(folder / "labels.csv", table.getvalue())
