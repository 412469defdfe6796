"""The same images in another format train the same generator, bit by bit."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.loop.build import build_parts
from tests.conftest import SMALL
from tests.unit.training.formats import (
    ARRAYS,
    FOLDERS,
    IDX,
    PACKERS,
    PARQUET,
    Drawn,
    Writer,
    class_folders,
    draw,
    pack,
    premultiplied,
)
from tests.unit.training.test_formats import digests, read_parts

STEPS = 60
SHARED = Path(__file__).parents[3].parent / "shared"  # beside the checkout: data that is too large for it
EMOJI = SHARED / "data/twemoji-64.zip"


def packed(suffix: str) -> Writer:
    """Returns a writer of class folders in an archive."""
    return lambda drawn, root: pack(class_folders(drawn, root), suffix)


FORMATS: dict[str, Writer] = {
    **FOLDERS,
    **{f"class folders in {suffix}": packed(suffix) for suffix in PACKERS},
    **ARRAYS,
    **PARQUET,
}


def train(source: Path, *settings: str) -> str:
    """Trains 60 steps with a seed; returns the digest of the generator's weights."""
    assignments = [*SMALL, f"data.source={source}", "data.num_workers=0", "train.seed=7", *settings]
    parts = build_parts(resolve(assignments=assignments, environment={})[0], Ranks.join())
    for step in range(STEPS):
        parts.step_runner(parts.batches.batch_ref(step), step=step, progress=step / STEPS)
    return weights_digest(parts.step.ema.state_dict())


@pytest.mark.soak
def test_four_formats_give_one_generator(tmp_path: Path) -> None:
    drawn = draw(count=120)
    small = ("model.base_channels=4", "train.batch_size=8")
    generators = {
        name: train(FORMATS[name](drawn.shuffled(seed), tmp_path / name / "set"), *small)
        for seed, name in enumerate(("class folders", "class folders in tar.xz", "dataset.json", "npz of MedMNIST"))
    }
    assert len(set(generators.values())) == 1, generators
    other = class_folders(draw(count=120, seed=1), tmp_path / "other")
    assert train(other, *small) not in generators.values()


# --- 1,906 emoji and 2,000 digits ---

SETTINGS = ("model.base_channels=4", "train.batch_size=16")


@pytest.fixture(scope="module")
def emoji() -> Drawn:
    if not EMOJI.exists():
        pytest.skip(
            f"needs {EMOJI.relative_to(SHARED.parent)} beside the checkout: 1,906 emoji, which are not part of it"
        )
    with zipfile.ZipFile(EMOJI) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        images = [Image.open(io.BytesIO(archive.read(name))).convert("RGBA") for name in names]
    classes = [name.split("/")[-2] for name in names]
    sorted_classes = tuple(sorted(set(classes)))
    labels = np.array([sorted_classes.index(each) for each in classes])
    return Drawn(np.stack([np.asarray(image) for image in images]), labels, sorted_classes)


@pytest.fixture(scope="module")
def emoji_reference(emoji: Drawn) -> tuple[dict[str, str], str]:
    """Digests of the emoji as they are published, and of their generator."""
    parts = read_parts(EMOJI)
    images = [image.numpy().tobytes() for part in parts.values() for image in part.images]
    assert sorted(images) == sorted(image.tobytes() for image in premultiplied(emoji.pixels))
    return digests(parts), train(EMOJI, *SETTINGS)


@pytest.mark.soak
@pytest.mark.parametrize("name", FORMATS)
def test_emoji(name: str, emoji: Drawn, emoji_reference: tuple[dict[str, str], str], tmp_path: Path) -> None:
    source = FORMATS[name](emoji.shuffled(seed=1), tmp_path / "emoji")
    tensors, generator = emoji_reference
    assert digests(read_parts(source)) == tensors
    assert train(source, *SETTINGS) == generator


@pytest.fixture(scope="module")
def digits() -> Drawn:
    data = load_split(DataSettings(), "test")
    return Drawn(data.images[:2000, 0].numpy(), data.labels[:2000].numpy(), tuple("0123456789"))


@pytest.fixture(scope="module")
def digits_reference(digits: Drawn, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    source = class_folders(digits, tmp_path_factory.mktemp("reference") / "digits")
    return digests(read_parts(source)), train(source, *SETTINGS)


@pytest.mark.soak
@pytest.mark.parametrize("name", [*IDX, *ARRAYS, "labels.csv", "class folders in zip", "Parquet"])
def test_digits(name: str, digits: Drawn, digits_reference: tuple[dict[str, str], str], tmp_path: Path) -> None:
    source = (FORMATS | IDX)[name](digits.shuffled(seed=1), tmp_path / "digits")
    tensors, generator = digits_reference
    assert digests(read_parts(source)) == tensors
    assert train(source, *SETTINGS) == generator
