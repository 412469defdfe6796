"""Checks of images and labels that come as arrays, and their conversion to uint8 pixels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_CHANNELS = (1, 3, 4)


def to_channels_last(images: np.ndarray) -> np.ndarray:
    """Converts images [N, C, H, W] to [N, H, W, C]; other arrays are returned unchanged.

    The channels are the axis with 1, 3 or 4 entries: the first one, if both fit, since `ganctl sample` writes it first.
    """
    return images.transpose(0, 2, 3, 1) if images.ndim == 4 and images.shape[1] in _CHANNELS else images


def to_pixels(images: np.ndarray, name: str) -> NDArray[np.uint8]:
    """Converts an array of images to uint8 [N, H, W] or [N, H, W, C].

    Floats must lie within [0, 1] or [−1, 1] and use that range, or be whole numbers from 0 to 255.

    Args:
        images: uint8, another integer type or floats; [N, H, W], [N, H, W, C] or [N, C, H, W].
        name: of the array, for the error.

    Raises:
        ValueError: the array has another shape, type or range.
    """
    images = to_channels_last(images)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in _CHANNELS) or 0 in images.shape:
        raise ValueError(
            f"{name}: found the shape {images.shape}, expected [N, H, W], or [N, H, W, C] or [N, C, H, W] with 1, 3"
            " or 4 channels. Reshape the array"
        )
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind == "b":
        return images.astype(np.uint8) * 255
    if images.dtype.kind not in "iuf":
        raise ValueError(f"{name}: found the type {images.dtype}, expected uint8. Convert the array")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        bad = int((~np.isfinite(images)).sum())
        raise ValueError(f"{name}: found {bad:,} values that are NaN or infinite, expected finite ones. Replace them")
    low, high = float(images.min()), float(images.max())
    if images.dtype.kind == "f" and -1 <= low < 0 and 0.5 < high <= 1:
        return ((images + 1) * 127.5).round().astype(np.uint8)
    if images.dtype.kind == "f" and low >= 0 and 0.5 < high <= 1:
        return (images * 255).round().astype(np.uint8)
    if low >= 0 and 1 < high <= 255 and (images.dtype.kind != "f" or np.equal(np.mod(images, 1), 0).all()):
        return images.astype(np.uint8)
    raise ValueError(
        f"{name}: found {images.dtype} from {low:.6g} to {high:.6g}, expected uint8 from 0 to 255, or floats from 0"
        " to 1 or from -1 to 1. Scale the array"
    )


def to_label_names(labels: np.ndarray, count: int, name: str) -> list[str]:
    """Returns the label of each image as text.

    Raises:
        ValueError: the labels are not one integer or text for each of `count` images.
    """
    flat = labels.reshape(len(labels), -1)[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.shape != (count,) or flat.dtype.kind not in "iuUSb":
        raise ValueError(
            f"{name}: found {labels.dtype} {labels.shape}, expected one integer or name for each of the {count} images"
        )
    return [label.decode() if isinstance(label, bytes) else str(label) for label in flat.tolist()]


def check_equal_sizes(arrays: Sequence[np.ndarray], name: str) -> None:
    """Checks that the arrays of several splits hold images of one kind.

    Raises:
        ValueError: they do not.
    """
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"{name}: found images of the shapes {sorted(shapes)}, expected one shape. Give one size")
