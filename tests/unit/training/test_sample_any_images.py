"""`ganctl sample` of a generator of transparent, unlabeled images: every kind of file has its alpha."""

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from ganctl.main import cli
from ganctl.training.callbacks.base import Callback
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import premultiply
from ganctl.training.data.datasets import load_split
from ganctl.training.images.pictures import encode_animation, tile
from ganctl.training.images.source import GeneratorSource, load_generator
from ganctl.training.loop.session import Session
from ganctl.training.readers.tree import SPLITS
from ganctl.training.sampling.animation import sample_animation
from ganctl.training.sampling.local_sampler import LocalSampler
from ganctl.training.sampling.request import SampleRequest
from tests.any_images import disks, save_folder, untrained_run
from tests.conftest import SMALL

SIZE = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a flat folder of RGBA images, whose generator draws noise from transparent to opaque."""
    folder = tmp_path_factory.mktemp("rgba")
    return untrained_run(folder / "run", save_folder(folder / "disks", disks(40, SIZE)), contrast=40)


def sample(run: Path, out: Path, *words: object) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["sample", str(run), "--out", str(out), "--json", *map(str, words)])
    assert done.exit_code == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def visible(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixels without the colors of transparent ones, which nobody sees."""
    return np.where(images[..., 3:] > 0, images, np.uint8(0))


def decoded(path: Path) -> NDArray[np.uint8]:
    """The pictures of an animation, as a viewer composes them from the file's frames."""
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0
        return np.stack([np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(animation)])


def test_pictures_arrays_and_folders_have_the_same_pixels(run: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.webp", "a.npz", "a"):
        sample(run, tmp_path / name, "--count", 12, "--seed", 5)
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays.files == ["images"], "an unlabeled generator has no labels"
        assert arrays["images"].shape == (12, 4, SIZE, SIZE)
        images = arrays["images"].transpose(0, 2, 3, 1)
    assert (images.dtype, images.shape) == (np.uint8, (12, SIZE, SIZE, 4))
    assert np.ptp(images[..., 3]) > 200
    grid = tile(images.transpose(0, 3, 1, 2), columns=10)
    assert not grid[SIZE:, 2 * SIZE :].any(), "empty cells are transparent"
    for name in ("a.png", "a.webp"):
        with Image.open(tmp_path / name) as picture:
            assert picture.mode == "RGBA"
            assert np.array_equal(visible(np.asarray(picture)[::2, ::2]), visible(grid)), name
    with (tmp_path / "a/labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["label"] for row in rows] == [""] * 12
    for row, image in zip(rows, images, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / row["file"])), image)


@pytest.mark.parametrize("name", ["samples", "samples.npz"])
def test_samples_are_a_data_set_of_the_same_images(run: Path, tmp_path: Path, name: str) -> None:
    sample(run, tmp_path / "expected.npz", "--count", 40, "--seed", 5)
    sample(run, tmp_path / name, "--count", 40, "--seed", 5)
    with np.load(tmp_path / "expected.npz") as arrays:
        expected = premultiply(torch.from_numpy(arrays["images"]))
    settings = DataSettings(source=str(tmp_path / name), num_workers=0)
    splits = [load_split(settings, split) for split in SPLITS]
    assert {split.class_names for split in splits} == {()}
    images = torch.cat([split.images for split in splits])
    assert sorted(image.numpy().tobytes() for image in images) == sorted(image.numpy().tobytes() for image in expected)


@pytest.mark.parametrize("name", ["walk.gif", "walk.webp"])
def test_a_frame_of_a_walk_shows_nothing_of_the_frames_before_it(run: Path, tmp_path: Path, name: str) -> None:
    record = sample(run, tmp_path / name, "--count", 3, "--frames", 7, "--seed", 2)
    assert (record["count"], record["frames"]) == (3, 7)
    generator, _ = load_generator(run / "checkpoints/best.safetensors")
    request = SampleRequest(count=3, seed=2)
    exact = sample_animation(request, LocalSampler(GeneratorSource(generator, ())), 7).frames
    alpha = exact[..., 3] if name == "walk.webp" else np.where(exact[..., 3] >= 128, 255, 0)
    assert (alpha[1:] < alpha[:-1]).any(axis=(1, 2)).all(), "each frame has pixels that vanish"
    frames = decoded(tmp_path / name)[:, ::4, ::4]
    assert np.array_equal(frames[..., 3], alpha)
    if name == "walk.webp":
        assert np.array_equal(visible(frames), visible(exact))
    else:
        opaque = alpha == 255
        assert np.abs(frames[opaque].astype(int) - exact[opaque])[:, :3].mean() < 24, "256 colors"


def test_the_grids_and_the_timelapse_of_a_run_have_alpha(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "disks", disks(40, SIZE))
    settings = [*SMALL, f"data.source={source}", "train.batch_size=8", "evaluation.every=8 images"]

    class Change(Callback):
        """Gives the last layer new weights, so that other pixels are opaque at each evaluation."""

        def on_step(self, run: Any) -> None:
            weight = run.generator.get_parameter("net.5.weight")
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(run.step))

    session = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run")
    trainer = session.build(max_steps=3, callbacks=[Change()])
    trainer.fit()
    pictures = [Image.open(path) for path in sorted((tmp_path / "run/samples").glob("*.png"))]
    assert [picture.mode for picture in pictures] == ["RGBA"] * 3
    opaque = [np.asarray(picture)[..., 3] >= 128 for picture in pictures]
    assert all((before & ~after).any() for before, after in pairwise(opaque)), "pixels vanish"
    for frame, expected in zip(decoded(tmp_path / "run/timelapse.gif"), opaque, strict=True):
        assert np.array_equal(frame[..., 3] == 255, expected)


def test_an_animation_keeps_the_pictures_that_it_is_given() -> None:
    pictures = [Image.fromarray(image) for image in disks(3, SIZE)]
    before = [picture.tobytes() for picture in pictures]
    encode_animation(pictures, durations=100)
    assert [picture.tobytes() for picture in pictures] == before
