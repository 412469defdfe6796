"""`ganctl sample` as a user types it: pictures, animations, arrays and folders; after an error, no file is written."""

import re
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


def test_the_same_seed_gives_the_same_images_for_any_count(ganctl: Ganctl, small_run: Path, tmp_path: Path) -> None:
    for name, count in (("few", 4), ("many", 9)):
        ganctl("sample", small_run, "--seed", 11, "--count", count, "--out", f"{name}.npz")
    few, many = np.load(tmp_path / "few.npz"), np.load(tmp_path / "many.npz")
    assert np.array_equal(few["labels"], many["labels"][:4])
    assert np.abs(few["images"].astype(int) - many["images"][:4]).max() <= 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--digit", "x", "--out", "a.png"), r"--label 'x': .*\b0, 1\b"),
        (("--digit", "1", "--text", "12", "--out", "a.png"), r"--label, --text and --per-class\b"),
        (("--out", "a.bmp"), r"--out a\.bmp: .*\.png, \.webp, \.gif or \.npz\b"),
        (("--out", "a.png", "--frames", 9), r"--frames 9: --out a\.png .*\.gif\b"),
        (("--out", "a.gif", "--reject-misread"), r"--reject-misread: .*\bframes\b"),
        (("--out", "a.png", "--set", "data.source=kmnist"), r"--set data\.source=kmnist: .*--reject-misread\b"),
        (("--out", "a.gif", "--text", "22"), r"--out: .*\banimation\b"),
        (("--out", "a.gif", "--digit", "x"), r"--label 'x': .*\b0, 1\b"),
        (("--out", "a.webp", "--count", 3000), r"--out a\.webp: .*\b16,800\b.*\b16,383\b"),
    ],
)
def test_unusable_arguments_are_usage_errors_and_no_file_is_written(
    words: tuple[object, ...], reason: str, ganctl: Ganctl, small_run: Path, tmp_path: Path
) -> None:
    done = ganctl("sample", small_run, *words)
    assert done.returncode == 2, done.stderr
    assert re.search(reason, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_reject_misread_ends_if_all_images_of_a_class_are_misread(
    ganctl: Ganctl, small_run: Path, tmp_path: Path
) -> None:
    state = read_checkpoint(small_run / "checkpoints/last.safetensors").state
    for weights in state["networks"]["ema"].values():
        weights.zero_()  # all images have the same gray level
    write_checkpoint(tmp_path / "gray.safetensors", state)
    done = ganctl("sample", tmp_path / "gray.safetensors", "--out", "a.png", "--reject-misread", "--per-class", 2)
    assert done.returncode == 5, done.stderr
    assert re.search(r"--reject-misread: .*\bclass \d\b.*\b500\b", done.stderr), done.stderr
    assert not (tmp_path / "a.png").exists()


def test_unconditional_generators_cannot_reject_misread_images_and_servers_cannot_animate(
    ganctl: Ganctl, small_unconditional_run: Path, tmp_path: Path
) -> None:
    done = ganctl("sample", small_unconditional_run, "--reject-misread", "--out", "a.png")
    assert done.returncode == 2
    assert re.search(r"--reject-misread: .*\bunconditional\b", done.stderr), done.stderr
    done = ganctl("sample", "http://127.0.0.1:9", "--out", "a.gif")
    assert done.returncode == 2
    assert re.search(r"--out a\.gif: .*\bserver\b", done.stderr), done.stderr
    assert ganctl("sample", small_unconditional_run, "--out", "walk.gif", "--frames", 8).returncode == 0
    with Image.open(tmp_path / "walk.gif") as animation:
        assert animation.size == (112, 112)


def test_a_still_webp_is_lossless(ganctl: Ganctl, small_run: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.webp"):
        assert ganctl("sample", small_run, "--count", 12, "--seed", 1, "--out", name).returncode == 0
    pictures = [np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("a.png", "a.webp")]
    assert np.array_equal(pictures[0], pictures[1])
