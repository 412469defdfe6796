"""Where images go: a picture, an array, a folder or a film; and back from an array."""

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganctl import __version__
from ganctl.files import naming, new_folder, write_file
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.file_kinds import UNREADABLE, file_kind
from ganctl.training.errors import DataError
from ganctl.training.images.pictures import ENLARGEMENT, encode, encode_film, tile, to_picture
from ganctl.training.sampling.inspection import Opened
from ganctl.training.sampling.request import Film, OrderError, SampleResult

_LEAST = 10  # images that can be scored at all
_CHANNELS = (1, 3, 4)  # of an image
_EXPECTED_ARRAYS = "expected `images` and `labels` as 'ganctl sample --out FILE.npz' writes them"
_SUFFIXES = (".png", ".webp", ".gif", ".npz", "")
_FILM_ENLARGEMENT = 4  # one image alone is small
_FRAME_MS = 50
_WEBP_SIDE = 16_383  # pixels, which that format ends at


def check_name(out: Path, *, frames: int | None = None) -> bool:
    """Whether `out` is to be a film: a .gif, or a .webp with a number of frames.

    Raises:
        OrderError: nothing can be written to `out`, or no frames.
    """
    if out.suffix not in _SUFFIXES:
        raise OrderError(
            f"--out {out}: expected a name ending in .png, .webp, .gif or .npz, or a folder's name without a suffix"
        )
    if frames is not None and out.suffix not in (".gif", ".webp"):
        raise OrderError(f"--frames {frames}: --out {out} is no film; expected a name ending in .gif or .webp")
    if out.suffix and out.is_dir():
        raise OrderError(f"--out {out}: it is a folder, expected a file")
    if not out.suffix and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OrderError(f"--out {out}: it is there already and is not an empty folder; name another one")
    return out.suffix == ".gif" or frames is not None


def save(drawn: SampleResult, out: Path) -> None:
    """Writes images to `out`: .png or .webp (one picture, lossless), .npz (`images` uint8, `labels` int64), or a folder
    of PNG files with `labels.csv`. Whatever fails, nothing half-written stays under that name.

    Raises:
        OrderError: a suffix that is none of these, or a picture too large for WebP.
    """
    check_name(out)
    if out.suffix in (".png", ".webp"):
        pixels = tile(drawn.images.transpose(0, 3, 1, 2), columns=drawn.columns)
        if out.suffix == ".webp" and (side := max(pixels.shape[:2]) * ENLARGEMENT) > _WEBP_SIDE:
            raise OrderError(
                f"--out {out}: the picture would be {side:,} pixels long, and a WebP ends at {_WEBP_SIDE:,}; name a"
                " .png, or order fewer images"
            )
        write_file(out, encode(to_picture(pixels, ENLARGEMENT), out.suffix[1:]))
    elif out.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **_arrays(drawn))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.comment = f"ganctl {__version__}".encode()
        write_file(out, buffer.getvalue())
    else:
        assert not out.suffix, "a film is save_walk's"
        with new_folder(out) as folder:
            _save_folder(drawn, folder)
            check_name(out)  # nobody has put anything there meanwhile, which would be deleted


def save_walk(film: Film, out: Path) -> None:
    """Writes a film to `out`, .gif or .webp, at 20 frames a second; whole or not at all."""
    frames = [to_picture(frame, _FILM_ENLARGEMENT) for frame in film.frames]
    write_file(out, encode_film(frames, kind=out.suffix[1:].upper(), durations=_FRAME_MS))


def open_images(path: Path) -> Opened:
    """The images and labels of a .npz that `save` wrote; it does not say what data set they are like: MNIST, if nobody
    says otherwise.

    Raises:
        DataError: the file is absent, damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays.get("labels")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except KeyError:
        raise DataError(f"{path}: found {file_kind(path)}; {_EXPECTED_ARRAYS}") from None
    except (*UNREADABLE, TypeError, AttributeError, IsADirectoryError) as error:
        raise DataError(f"{path}: {error}; {_EXPECTED_ARRAYS}") from error
    if (fault := _fault_of_images(images) or _fault_of_labels(labels, len(images))) is not None:
        raise DataError(f"{path}: {fault}")
    facts = {"images_in_file": len(images)}
    known = None if labels is None else torch.from_numpy(labels)
    pixels = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
    return Opened(DataSettings(), images=pixels, labels=known, facts=facts)


def _fault_of_images(images: np.ndarray) -> str | None:
    found, expected = f"images {images.dtype} {images.shape}", "uint8 [N, H, W] or [N, H, W, C]"
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) < _LEAST:
        floats = ". Images from 0 to 1: (images * 255).round().astype('uint8')" if images.dtype.kind == "f" else ""
        return f"{found}, expected {expected} with at least {_LEAST} images{floats}"
    if images.ndim == 4 and images.shape[1] in _CHANNELS and images.shape[3] not in _CHANNELS:
        return f"{found} have their channels first, [N, C, H, W], expected {expected}: images.transpose(0, 2, 3, 1)"
    return None


def _fault_of_labels(labels: np.ndarray | None, n: int) -> str | None:
    if labels is None or (labels.dtype == np.int64 and labels.shape == (n,)):
        return None
    column = "[:, 0]" if labels.shape == (n, 1) else ""
    way = f": labels{column}.astype('int64')" if labels.dtype.kind in "iu" and labels.shape in ((n,), (n, 1)) else ""
    return f"labels {labels.dtype} {labels.shape}, expected int64 ({n},){way}"


def _arrays(drawn: SampleResult) -> dict[str, Any]:
    images = drawn.images[..., 0] if drawn.images.shape[-1] == 1 else drawn.images
    return {"images": images} | ({} if drawn.labels is None else {"labels": drawn.labels})


def _save_folder(drawn: SampleResult, folder: Path) -> None:
    rows = [("file", "label")]
    for i, image in enumerate(drawn.images):
        label = "" if drawn.labels is None else str(drawn.labels[i])
        name = f"{i:06d}{'-' if label else ''}{label}.png"
        with naming(folder / name):
            (folder / name).write_bytes(encode(to_picture(image), "png"))
        rows.append((name, label))
    table = io.StringIO(newline="")
    csv.writer(table).writerows(rows)
    write_file(folder / "labels.csv", table.getvalue())
