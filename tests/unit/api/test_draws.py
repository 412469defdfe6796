"""`ganctl.load`: a run, its export, its archive and `ganctl sample` draw the same images from the same seed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest
from numpy.typing import NDArray

from ganctl import GeneratedImages, ImageGenerator, load
from ganctl.exports.errors import ExportError
from ganctl.exports.export import export
from ganctl.serving.archive.mar import package
from ganctl.serving.errors import PackageError, RemoteError
from ganctl.training.errors import CheckpointError
from ganctl.training.sampling.animation import sample_animation
from ganctl.training.sampling.inspection import open_checkpoint
from ganctl.training.sampling.local_sampler import LocalSampler
from ganctl.training.sampling.request import SampleRequest
from tests.any_images import disks, save_folder, untrained_run
from tests.conftest import Ganctl
from tests.unit.serving.small_export import write_export

NAMES = ["sun", "1", "café", "moon", "a", "b", "c", "d", "e", "f"]  # "1" is a name and, as 1, an index; both agree


@pytest.fixture(scope="module")
def sources(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One generator as a run, a checkpoint, an export and an archive of each backend."""
    folder = tmp_path_factory.mktemp("sources")
    exported = export(small_run, out=folder / "export", formats=("onnx", "torchscript"))
    return {
        "run": small_run,
        "checkpoint": small_run / "checkpoints/best.safetensors",
        "export": exported,
        "onnx archive": package(exported, folder / "onnx"),
        "torchscript archive": package(exported, folder / "torchscript", "torchscript"),
    }


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> ImageGenerator:
    return load(write_export(tmp_path_factory.mktemp("named") / "export", class_names=NAMES))


@pytest.fixture(scope="module")
def run(small_run: Path) -> ImageGenerator:
    return load(small_run)


@pytest.fixture(scope="module")
def unconditional(small_unconditional_run: Path) -> ImageGenerator:
    return load(small_unconditional_run)


def largest_difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": [3, "7"], "count": 5}, ("--label", 3, "--label", 7, "--count", 5)),
        ({"text": "2026", "count": 2}, ("--text", "2026", "--count", 2)),
        ({"count": 300, "truncation": 0.5}, ("--count", 300, "--truncation", 0.5)),
    ],
)
def test_every_source_draws_what_ganctl_sample_draws(
    arguments: dict[str, Any], words: tuple[object, ...], sources: dict[str, Path], ganctl: Ganctl, tmp_path: Path
) -> None:
    assert ganctl("sample", sources["run"], *words, "--seed", 5, "--out", "a.npz").returncode == 0
    expected = np.load(tmp_path / "a.npz")
    for name, path in sources.items():
        drawn = load(path).sample(**arguments, seed=5)
        assert largest_difference(drawn.images, expected["images"]) <= 1, name
        assert drawn.labels is not None
        assert drawn.labels.tolist() == expected["labels"].tolist()
        assert drawn.seed == 5


def test_a_run_its_export_and_its_archive_have_the_same_description(sources: dict[str, Path]) -> None:
    generators = {name: load(path) for name, path in sources.items()}
    found = {(g.version, g.class_names, g.conditional, g.shape, g.latent_dim) for g in generators.values()}
    assert len(found) == 1
    version, class_names, conditional, shape, latent_dim = found.pop()
    assert re.fullmatch("[0-9a-f]{12}", version)
    assert (class_names, conditional, shape, latent_dim) == (tuple("0123456789"), True, (28, 28), 128)
    assert repr(generators["run"]) == f"<ImageGenerator {sources['run']}: 10 classes, version {version}>"


def test_labels_are_indices_or_names_alone_or_in_any_sequence(named: ImageGenerator) -> None:
    def labels(given: Any) -> Any:
        drawn = named.sample(given, seed=1).labels
        assert drawn is not None
        return drawn.tolist()

    assert labels("moon") == labels(3) == labels(np.int64(3)) == [3]
    assert labels(["sun", 1, "cafe\N{COMBINING ACUTE ACCENT}"]) == labels(np.array([0, 1, 2])) == [0, 1, 2]
    assert labels(range(10)) == list(range(10))


def test_the_seed_of_a_draw_without_one_repeats_it(run: ImageGenerator) -> None:
    drawn, other = run.sample(count=3), run.sample(count=3)
    assert drawn.seed != other.seed
    again = run.sample(count=3, seed=drawn.seed)
    assert np.array_equal(drawn.images, again.images)
    assert drawn.z is not None
    assert again.z is not None
    assert np.array_equal(drawn.z, again.z)


@pytest.mark.parametrize("arguments", [{"labels": [3, 7], "count": 5}, {"text": "20"}, {"count": 300}])
def test_a_local_draw_returns_the_latents_that_decode_to_its_images(
    arguments: dict[str, Any], run: ImageGenerator
) -> None:
    drawn = run.sample(**arguments, seed=2, truncation=0.7)
    assert drawn.z is not None
    decoded = run.decode(drawn.z, drawn.labels)
    assert largest_difference(decoded.images, drawn.images) <= 1


def test_images_of_an_unconditional_generator_have_no_labels(unconditional: ImageGenerator) -> None:
    drawn = unconditional.sample(count=2, seed=3)
    assert (drawn.labels, unconditional.class_names, unconditional.conditional) == (None, (), False)
    assert drawn.z is not None
    assert largest_difference(unconditional.decode(drawn.z).images, drawn.images) <= 1


def test_pil_and_grid_give_pillow_images_of_the_same_pixels(run: ImageGenerator) -> None:
    drawn = run.sample(text="2026", count=2, seed=1)
    pairs = zip(drawn.pil(), drawn.images, strict=True)
    assert all(np.array_equal(np.asarray(picture), image) for picture, image in pairs)
    grid = drawn.grid(scale=2)
    assert (grid.mode, grid.size) == ("L", (4 * 56, 2 * 56))  # a row for each repetition of the text
    assert np.array_equal(np.asarray(grid)[56:112:2, :56:2], drawn.images[4])
    assert run.sample(count=13, seed=1).grid().size == (280, 56)
    assert run.sample(count=3, seed=1).grid(columns=2).size == (56, 56)


def test_images_with_transparency_have_alpha_last(tmp_path: Path) -> None:
    path = untrained_run(tmp_path / "run", save_folder(tmp_path / "disks", disks(20, 20)), contrast=40)
    drawn = load(path).sample(count=3, seed=1)
    assert drawn.images.shape == (3, 20, 20, 4)
    assert load(path).shape == (20, 20, 4)
    assert {picture.mode for picture in (*drawn.pil(), drawn.grid())} == {"RGBA"}


def test_a_walk_has_the_frames_of_ganctl_sample(run: ImageGenerator, small_run: Path) -> None:
    walk = run.walk(labels=[3, 7], frames=10, seed=4)
    source = open_checkpoint(small_run).source
    assert source is not None
    expected = sample_animation(SampleRequest(labels=("3", "7"), seed=4), LocalSampler(source), 10)
    assert largest_difference(walk.images, expected.frames[..., 0]) <= 1
    assert walk.seed == 4
    assert len(run.walk(labels=7, seed=4)) == 8 * 24


def test_a_walk_through_latents_passes_their_images(run: ImageGenerator) -> None:
    stops = run.sample(labels=[3, 7, 9], seed=1)
    other = run.sample(labels=[3, 7, 9], seed=2)
    assert stops.z is not None
    walk = run.walk(z=stops.z, labels=stops.labels, frames=12)
    assert largest_difference(walk.images[::4], stops.images) <= 1
    assert largest_difference(walk.images[::4], other.images) > 1


@pytest.mark.parametrize("name", ["export", "torchscript archive"])
def test_an_export_walks_through_the_styles_of_one_label_only(name: str, sources: dict[str, Path]) -> None:
    walk = load(sources[name]).walk(labels=7, count=2, frames=6, seed=1)
    assert largest_difference(walk.images[::3], load(sources["run"]).sample(7, count=2, seed=1).images) <= 1
    with pytest.raises(ValueError, match=r"^labels: .*\bmix\b.*Load a run"):
        load(sources[name]).walk(labels=[3, 7], frames=6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.sample("jupiter"), r"^labels: found 'jupiter', expected .*sun, 1, café.* 0 to 9\.$"),
        (lambda g: g.sample(10), r"^labels: found 10\b.* 0 to 9\b"),
        (lambda g: g.sample([3, -1]), r"^labels: found -1\b"),
        (lambda g: g.sample(True), r"^labels: found True\b"),
        (lambda g: g.sample(3.0), r"^labels: found 3\.0\b"),
        (lambda g: g.sample([]), r"^labels: found none\b"),
        (lambda g: g.sample(text="1x"), r"^text '1x': found 'x'"),
        (lambda g: g.sample(text=""), r"^text '': found no character\b"),
        (lambda g: g.sample(3, text="1"), r"^text: found labels as well\b"),
        (lambda g: g.sample(count=0), r"^count: found 0\b.*1 or more"),
        (lambda g: g.sample(count=2.5), r"^count: found 2\.5\b"),
        (lambda g: g.sample(seed=-1), r"^seed: found -1\b.*0 to 9007199254740991"),
        (lambda g: g.sample(seed=2**53 - 1, count=300), r"^seed 9007199254740991: .*\bsmaller\b"),
        (lambda g: g.sample(truncation=1.5), r"^truncation: found 1\.5\b.*0 to 1"),
        (lambda g: g.walk(3, frames=1), r"^frames: found 1\b"),
        (lambda g: g.walk(3, count=9, frames=8), r"^frames 8: .*\b9 images\b"),
        (lambda g: g.walk(3, count=1, frames=8), r"^walk: .*\bequal\b.*\bcount\b"),
        (lambda g: g.walk(z=np.zeros((2, 16)), count=3), r"^z: found .*\bcount\b"),
        (lambda g: g.decode(np.zeros((2, 5)), 1), r"^z: found the shape \(2, 5\), expected \(N, 16\)"),
        (lambda g: g.decode(np.full(16, np.nan), 1), r"^z: found NaN"),
        (lambda g: g.decode(np.zeros((3, 16))), r"^labels: found none\b.*\b3\b"),
        (lambda g: g.decode(np.zeros((3, 16)), [1, 2]), r"^labels: found 2\b.*\b3\b"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_a_value_error_that_names_it(
    call: Callable[[ImageGenerator], object], message: str, named: ImageGenerator
) -> None:
    with pytest.raises(ValueError, match=message):
        call(named)


@pytest.mark.parametrize(("argument", "value"), [("labels", 3), ("text", "3")])
def test_labels_of_an_unconditional_generator_are_an_error(
    argument: str, value: Any, unconditional: ImageGenerator
) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: .*\bunconditional\b.*Leave {argument} out"):
        unconditional.sample(**{argument: value})


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: path / "absent", CheckpointError),
        (lambda path: path / "absent.mar", PackageError),
        (lambda path: _damaged(path), ExportError),
        (lambda path: "http://127.0.0.1:9", RemoteError),
    ],
)
def test_an_absent_or_damaged_source_is_an_error_that_names_it(
    make: Callable[[Path], Path | str], error: type[Exception], tmp_path: Path
) -> None:
    source = make(tmp_path)
    with pytest.raises(error, match=re.escape(str(source))):
        load(source, timeout=1)


def _damaged(path: Path) -> Path:
    folder = write_export(path / "export")
    with (folder / "generator.onnx").open("ab") as file:
        file.write(b"x")
    return folder


def test_the_result_of_a_draw_has_a_length_and_is_not_compared_by_value(run: ImageGenerator) -> None:
    drawn = run.sample(count=2, seed=1)
    assert_type(drawn, GeneratedImages)  # `make lint` fails if `load` and its results lose their types
    assert_type(drawn.images, NDArray[np.uint8])
    assert len(drawn) == 2
    assert drawn != run.sample(count=2, seed=1)  # arrays have no single truth value


def test_pretrained_is_the_generator_that_ganctl_contains() -> None:
    drawn = load("pretrained").sample(text="2026", seed=1)
    assert drawn.images.shape == (4, 28, 28)
