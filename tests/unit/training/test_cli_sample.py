"""`ganctl sample` as a user types it: pictures, animations, arrays and folders, or one clear message and
nothing written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.training.checkpoint.format import read_checkpoint, write_checkpoint
from tests.conftest import Ganctl, one_object


def test_sample_writes_a_picture_arrays_and_a_folder(ganctl: Ganctl, small_run: Path, tmp_path: Path) -> None:
    assert ganctl("sample", small_run, "--text", "2026", "--count", 3, "--out", "a.png").returncode == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (4 * 56, 3 * 56)
    record = one_object(ganctl("sample", small_run, "--per-class", 30, "--seed", 5, "--out", "b.npz", "--json").stdout)
    assert (record["count"], record["seed"]) == (300, 5)
    with np.load(tmp_path / "b.npz") as arrays:
        assert (arrays["images"].dtype, arrays["images"].shape) == (np.uint8, (300, 28, 28))
        assert np.bincount(arrays["labels"]).tolist() == [30] * 10
    assert ganctl("sample", small_run, "--digit", 3, "--digit", 8, "--count", 5, "--out", "c").returncode == 0
    rows = (tmp_path / "c/labels.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["3", "8", "3", "8", "3"]
    assert len(list((tmp_path / "c").glob("*.png"))) == 5


def test_the_same_seed_draws_the_same_images_whatever_the_count(
    ganctl: Ganctl, small_run: Path, tmp_path: Path
) -> None:
    for name, count in (("few", 4), ("many", 9)):
        ganctl("sample", small_run, "--seed", 11, "--count", count, "--out", f"{name}.npz")
    few, many = np.load(tmp_path / "few.npz"), np.load(tmp_path / "many.npz")
    assert np.array_equal(few["labels"], many["labels"][:4])
    assert np.abs(few["images"].astype(int) - many["images"][:4]).max() <= 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--digit", "x", "--out", "a.png"), 2, "expected one of 0, 1"),
        (("--digit", "1", "--text", "12", "--out", "a.png"), 2, "exclude each other"),
        (("--out", "a.bmp"), 2, "ending in .png, .webp, .gif or .npz"),
    ],
)
def test_orders_that_make_no_sense_are_usage_errors(
    words: tuple[str, ...], code: int, told: str, ganctl: Ganctl, small_run: Path, tmp_path: Path
) -> None:
    done = ganctl("sample", small_run, *words)
    assert done.returncode == code
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--out", "a.png", "--frames", 9), 2, "--frames 9: --out a.png is no animation, expected a .gif"),
        (("--out", "a.gif", "--reject-misread"), 2, "--reject-misread: frames between two classes"),
        (("--out", "a.png", "--set", "data.name=kmnist"), 2, "--set data.name=kmnist: it only sets the classifier"),
        (("--out", "a.gif", "--text", "22"), 2, "--out: an animation walks from image to image"),
        (("--out", "a.gif", "--digit", "x"), 2, "--label 'x': expected one of 0, 1"),
        (("--out", "a.webp", "--count", 3000), 2, "--out a.webp: the picture would be 16,800 pixels long"),
    ],
)
def test_animations_and_verified_orders_that_make_no_sense_are_told(
    words: tuple[object, ...], code: int, told: str, ganctl: Ganctl, small_run: Path, tmp_path: Path
) -> None:
    done = ganctl("sample", small_run, *words)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_is_never_read_as_asked_ends_a_verified_order(
    ganctl: Ganctl, small_run: Path, tmp_path: Path
) -> None:
    state = read_checkpoint(small_run / "checkpoints/last.safetensors").state
    for weights in state["networks"]["ema"].values():
        weights.zero_()  # every image is the same grey
    write_checkpoint(tmp_path / "grey.safetensors", state)
    done = ganctl("sample", tmp_path / "grey.safetensors", "--out", "a.png", "--reject-misread", "--per-class", 2)
    assert done.returncode == 5, done.stderr
    assert "--reject-misread: of class" in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_what_has_no_labels_is_not_verified_and_a_server_walks_nowhere(
    ganctl: Ganctl, small_unconditional_run: Path, tmp_path: Path
) -> None:
    done = ganctl("sample", small_unconditional_run, "--reject-misread", "--out", "a.png")
    assert done.returncode == 2
    assert "--reject-misread: this generator is unconditional" in done.stderr
    done = ganctl("sample", "http://127.0.0.1:9", "--out", "a.gif")
    assert done.returncode == 2
    assert "--out a.gif: a server samples no walks" in done.stderr
    assert ganctl("sample", small_unconditional_run, "--out", "walk.gif", "--frames", 8).returncode == 0
    with Image.open(tmp_path / "walk.gif") as film:
        assert film.size == (112, 112)


def test_a_still_webp_is_lossless(ganctl: Ganctl, small_run: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.webp"):
        assert ganctl("sample", small_run, "--count", 12, "--seed", 1, "--out", name).returncode == 0
    pictures = [np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("a.png", "a.webp")]
    assert np.array_equal(pictures[0], pictures[1])
