"""`encode` finds the latents of images, from every source that has gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl import Encoding, ImageGenerator, load
from ganctl.api.images import psnr
from ganctl.exports.export import export
from ganctl.serving.archive.mar import package
from ganctl.training.checkpoint.format import read_checkpoint, write_checkpoint
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.images.inversion import load_heads
from ganctl.training.images.source import load_generator
from tests.any_images import disks, save_folder, untrained_run
from tests.unit.serving.small_export import write_export


@pytest.fixture(scope="module")
def run(small_run: Path) -> ImageGenerator:
    return load(small_run)


def test_images_of_the_generator_itself_are_found_again(run: ImageGenerator) -> None:
    drawn = run.sample(labels=range(10), seed=3)
    encoded = run.encode(drawn.images, drawn.labels)
    assert isinstance(encoded, Encoding)
    assert encoded.psnr.shape == (10,)
    assert np.median(encoded.psnr) > 40
    assert encoded.z is not None
    assert encoded.labels is not None
    assert encoded.labels.tolist() == list(range(10))
    decoded = run.decode(encoded.z, encoded.labels)
    assert np.array_equal(decoded.images, encoded.images)


def test_test_digits_are_approached_by_a_barely_trained_generator(run: ImageGenerator) -> None:
    test = load_split(DataSettings(), "test")
    images, labels = test.images[:20, 0].numpy(), test.labels[:20].numpy()
    encoded = run.encode(images, labels)
    drawn = psnr(run.sample(labels, seed=1).images, images)
    assert np.median(encoded.psnr) > np.median(drawn) + 4  # 14.9 and 8.9 dB after 40 steps of training


def test_an_image_has_the_same_latent_alone_and_among_others(run: ImageGenerator) -> None:
    drawn = run.sample(count=3, seed=1)
    together = run.encode(drawn.images, drawn.labels, steps=20)
    assert drawn.labels is not None
    alone = run.encode(drawn.images[1], int(drawn.labels[1]), steps=20)
    assert together.z is not None
    assert alone.z is not None
    np.testing.assert_allclose(alone.z[0], together.z[1], atol=1e-3)


def test_psnr_is_that_of_the_returned_8_bit_images(run: ImageGenerator) -> None:
    images = run.sample(labels=[1, 2], seed=1).images
    encoded = run.encode(images, [1, 2], steps=5)
    mse = ((encoded.images.astype(float) - images) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(encoded.psnr, 10 * np.log10(255**2 / mse))
    assert np.isinf(psnr(images, images)).all()


def test_the_search_starts_at_the_predictions_of_the_discriminator(small_run: Path) -> None:
    generator, checkpoint = load_generator(small_run / "checkpoints/best.safetensors")
    heads = load_heads(checkpoint, generator)
    assert heads is not None
    drawn = load(small_run).sample(labels=[3, 8], seed=1)
    with torch.no_grad():
        features = heads.features(torch.from_numpy(drawn.images[:, None]).float() / 127.5 - 1)
        assert heads.latent is not None
        assert heads.classifier is not None
        predicted, labels = heads.latent(features).numpy(), heads.classifier(features).argmax(dim=1)
    encoded = load(small_run).encode(drawn.images, steps=1)
    assert encoded.z is not None
    assert encoded.labels is not None
    assert np.abs(encoded.z - predicted).max() < 1e-3  # the last step of the ramp is 0
    assert encoded.labels.tolist() == labels.tolist()


def test_unknown_labels_are_found_without_a_discriminator(tmp_path: Path) -> None:
    exported = write_export(tmp_path / "export")  # its images show their label
    for generator in (load(exported), load(package(exported, tmp_path, "torchscript"))):
        drawn = generator.sample(labels=range(10), seed=5)
        encoded = generator.encode(drawn.images)
        assert encoded.labels is not None
        assert encoded.labels.tolist() == list(range(10))
        assert np.median(encoded.psnr) > 30


def test_an_export_encodes_with_torchscript_which_has_gradients(small_run: Path, tmp_path: Path) -> None:
    generator = load(export(small_run, out=tmp_path / "export", formats=("onnx", "torchscript")))
    drawn = generator.sample(labels=[3, 8], seed=1)
    assert generator.encode(drawn.images, drawn.labels).psnr.min() > 30


def test_a_checkpoint_without_a_known_discriminator_starts_from_random_latents(small_run: Path, tmp_path: Path) -> None:
    state = read_checkpoint(small_run / "checkpoints/best.safetensors").state
    state["config"]["model"]["discriminator"] = "absent_module:Judge"
    write_checkpoint(tmp_path / "other.safetensors", state)
    generator = load(tmp_path / "other.safetensors")
    drawn = generator.sample(labels=[3, 8], seed=1)
    encoded = [generator.encode(drawn.images, drawn.labels, steps=60, seed=seed) for seed in (1, 1, 2)]
    assert min(each.psnr.min() for each in encoded) > 25
    assert np.array_equal(encoded[0].images, encoded[1].images)
    assert not np.array_equal(encoded[0].images, encoded[2].images)


def test_an_unconditional_generator_encodes_without_labels(small_unconditional_run: Path) -> None:
    generator = load(small_unconditional_run)
    drawn = generator.sample(count=3, seed=1)
    encoded = generator.encode(drawn.images)
    assert encoded.labels is None
    assert np.median(encoded.psnr) > 30


def test_transparent_images_are_compared_without_their_hidden_colors(tmp_path: Path) -> None:
    path = untrained_run(tmp_path / "run", save_folder(tmp_path / "disks", disks(20, 20)), contrast=8)
    for generator in (load(path), load(export(path, out=tmp_path / "export", formats=("torchscript",)))):
        drawn = generator.sample(count=2, seed=1)
        assert generator.encode(drawn.images).psnr.min() > 20  # about 10 if colors were compared as they are
        black = drawn.images.copy()
        black[:, :10] = 0  # transparent
        white = black.copy()
        white[:, :10, :, :3] = 255
        first, second = (generator.encode(images, steps=5) for images in (black, white))
        assert np.array_equal(first.psnr, second.psnr)


def test_images_come_as_pillow_images_floats_or_in_the_layout_of_npz_files(run: ImageGenerator) -> None:
    drawn = run.sample(labels=[3, 8], seed=1)
    expected = run.encode(drawn.images, [3, 8], steps=3).images
    same: list[Any] = [
        drawn.pil(),
        [picture.convert("RGB") for picture in drawn.pil()],
        drawn.images / np.float32(255),
        drawn.images[..., None],
        drawn.images[:, None],
        torch.from_numpy(drawn.images),
        list(drawn.images),
    ]
    for images in same:
        assert np.array_equal(run.encode(images, [3, 8], steps=3).images, expected)
    for image in (drawn.pil()[0], drawn.images[0]):
        assert np.array_equal(run.encode(image, 3, steps=3).images, expected[:1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 28, 28), np.uint8), r"^images: found none"),
        ([], r"^images: found none"),
        (np.zeros((2, 32, 32), np.uint8), r"^images: found 32 × 32, expected 28 × 28\. Resize"),
        (np.zeros((2, 28, 28, 3), np.uint8), r"^images: found 28 × 28 × 3, expected 28 × 28\b"),
        (np.zeros((2, 2, 28, 28, 1), np.uint8), r"^images: found the shape \(2, 2, 28, 28, 1\)"),
        (np.full((2, 28, 28), 300.0), r"^images: found float64 from 300 to 300"),
        (np.full((2, 28, 28), np.nan), r"^images: .*\bNaN\b"),
        (np.array([["a"]]), r"^images: "),
        ([Image.new("L", (28, 28)), Image.new("L", (8, 8))], r"^images: found several sizes"),
        (Image.new("L", (8, 28)), r"^images: found 28 × 8, expected 28 × 28"),
    ],
)
def test_unusable_images_are_a_value_error_that_says_what_was_found(
    images: Any, message: str, run: ImageGenerator
) -> None:
    with pytest.raises(ValueError, match=message):
        run.encode(images, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, x: g.encode(x, 10), r"^labels: found 10\b"),
        (lambda g, x: g.encode(x, [1, 2, 3]), r"^labels: found 3\b.*\b2\b"),
        (lambda g, x: g.encode(x, 1, steps=0), r"^steps: found 0\b"),
        (lambda g, x: g.encode(x, 1, seed=-1), r"^seed: found -1\b"),
    ],
)
def test_a_wrong_argument_is_a_value_error_that_names_it(
    call: Callable[[ImageGenerator, Any], object], message: str, run: ImageGenerator
) -> None:
    with pytest.raises(ValueError, match=message):
        call(run, np.zeros((2, 28, 28), np.uint8))


def test_a_source_without_gradients_is_an_error_that_says_what_to_load() -> None:
    with pytest.raises(ValueError, match=r"^encode: .*generator\.onnx.*\bno gradients\b.*`ganctl export RUN --format"):
        load("pretrained").encode(np.zeros((1, 28, 28), np.uint8), 3)


def test_a_walk_between_two_encoded_images_passes_both(run: ImageGenerator) -> None:
    drawn = run.sample(labels=[3, 8], seed=1)
    encoded = run.encode(drawn.images, drawn.labels, steps=20)
    walk = run.walk(z=encoded.z, labels=encoded.labels, frames=8)
    assert np.abs(walk.images[::4].astype(int) - encoded.images).max() <= 1
