"""Bad arrays in NPZ and IDX files: one message that names the path, and exit code 4."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np

from tests.conftest import Ganctl
from tests.unit.training.bad_data import Build, assert_refused, cases, cut
from tests.unit.training.formats import draw, idx, idx_file, write


def npz_with(**arrays: object) -> Build:
    def build(folder: Path) -> Path:
        np.savez(folder / "set.npz", **arrays)  # type: ignore[arg-type]  # its stub takes further arrays for `allow_pickle`
        return folder / "set.npz"

    return build


def pixels(dtype: type = np.float32, *, low: float = 0, high: float = 1) -> np.ndarray:
    unit = draw("L").pixels.astype(np.float64) / 255
    unit.ravel()[:2] = (0, 1)
    return (low + unit * (high - low)).astype(dtype)


def with_value(value: float) -> np.ndarray:
    array = pixels()
    array[3, 4, 5] = value
    return array


def objects(folder: Path) -> Path:
    """Pickled objects, which would run code when they are loaded."""

    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(folder / "was run"),))

    return npz_with(images=np.array([Harmful()] * 20, object), labels=np.arange(20) % 2)(folder)


def pickled(folder: Path) -> Path:
    """A pickle with the name of an .npz file."""
    return write(folder / "set.npz", pickle.dumps({"images": [1, 2]}))


def npz_bomb(folder: Path) -> Path:
    """An .npz file whose list of arrays promises 3 GB."""
    np.savez_compressed(folder / "set.npz", images=np.zeros((1000, 28, 28), np.uint8))
    content = bytearray((folder / "set.npz").read_bytes())
    at = content.index(b"PK\1\2") + 24
    content[at : at + 4] = struct.pack("<I", 3 << 30)
    return write(folder / "set.npz", bytes(content))


def gray_idx(folder: Path, *, labels: int = 60) -> Path:
    idx()(draw("L"), folder / "set")
    idx_file(folder / "set/labels-idx1-ubyte", (np.arange(labels) % 3).astype(np.uint8))
    return folder / "set"


def cut_idx(folder: Path) -> Path:
    file = gray_idx(folder) / "images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    return file.parent


def half_labeled_idx(folder: Path) -> Path:
    idx("train-")(draw("L"), folder / "set")
    return idx_file(folder / "set/t10k-images-idx3-ubyte", draw("L", count=15).pixels).parent


LABELS = np.arange(60) % 3
ARRAYS: list[tuple[str, Build, str]] = [
    ("a truncated npz", cut(npz_with(images=draw("L").pixels, labels=LABELS), 0.5), "set.npz"),
    ("pickled objects", objects, "set.npz"),
    ("a pickle", pickled, "set.npz"),
    ("an array file", lambda folder: write(folder / "set.npz", b"\x93NUMPY\1\0v\0{}"), "set.npz"),
    ("an npz bomb", npz_bomb, f"{3 << 30:,}"),
    ("other arrays", npz_with(pictures=draw("L").pixels, y=LABELS), "pictures uint8 (60, 20, 20)"),
    ("NaN", npz_with(images=with_value(np.nan), labels=LABELS), "NaN"),
    ("infinity", npz_with(images=with_value(np.inf), labels=LABELS), "1 values"),
    ("floats from 0 to 7.5", npz_with(images=pixels(high=7.5), labels=LABELS), "7.5"),
    ("floats from -3 to 1", npz_with(images=pixels(low=-3), labels=LABELS), "-3"),
    ("floats from 0 to 0.1", npz_with(images=pixels(high=0.1), labels=LABELS), "0.1"),
    ("integers of 16 bits", npz_with(images=pixels(np.uint16, high=60000), labels=LABELS), "uint16"),
    ("negative integers", npz_with(images=pixels(np.int16, low=-5, high=255), labels=LABELS), "-5"),
    ("text", npz_with(images=np.full((60, 20, 20), "x"), labels=LABELS), "images"),
    ("two channels", npz_with(images=np.zeros((60, 20, 20, 2), np.uint8), labels=LABELS), "(60, 20, 20, 2)"),
    ("flat images", npz_with(images=np.zeros((60, 400), np.uint8), labels=LABELS), "(60, 400)"),
    ("no images", npz_with(images=np.zeros((0, 20, 20), np.uint8), labels=LABELS[:0]), "(0, 20, 20)"),
    ("too few labels", npz_with(images=draw("L").pixels, labels=LABELS[:59]), "labels"),
    ("one-hot labels", npz_with(images=draw("L").pixels, labels=np.eye(3)[LABELS]), "(60, 3)"),
    ("float labels", npz_with(images=draw("L").pixels, labels=LABELS / 2), "float64"),
    ("sizes that differ", npz_with(x_train=draw("L").pixels, x_test=draw("L", side=24).pixels), "(24, 24)"),
    (
        "labels for one split alone",
        npz_with(x_train=draw("L").pixels, y_train=LABELS, x_test=draw("L").pixels),
        "labels",
    ),
    ("too few labels in IDX", lambda folder: gray_idx(folder, labels=59), "labels-idx1-ubyte"),
    ("a truncated IDX file", cut_idx, "images-idx3-ubyte"),
    ("labels for one split of IDX alone", half_labeled_idx, "15 images"),
    ("IDX images with their labels beside", lambda folder: gray_idx(folder) / "images-idx3-ubyte", "labels-idx1-ubyte"),
]


@cases(ARRAYS)
def test_arrays(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


@cases([ARRAYS[0], ARRAYS[1]])
def test_inspect_refuses_arrays(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message, command="inspect")
