"""Class names are kept and compared in Unicode's composed form (NFC), in runs and exports of earlier versions, too."""

import json
import unicodedata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from ganctl.main import cli
from ganctl.training.checkpoint.format import read_checkpoint, write_checkpoint
from ganctl.training.config.registry import DATASETS
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.sampling.inspection import check_fit, open_checkpoint
from tests.conftest import train_small

DECOMPOSED = tuple(unicodedata.normalize("NFD", name) for name in ("café", "Übung", "é", "a,b;c=d", *"456789"))
Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, ...] = ("NFC", "NFD")


def with_names(source: Path, target: Path, names: tuple[str, ...]) -> Path:
    """A checkpoint with other class names."""
    state = read_checkpoint(source).state
    write_checkpoint(target, {**state, "data": {**state["data"], "class_names": list(names)}})
    return target


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that an earlier version wrote on a macOS disk: its names are decomposed."""
    folder = tmp_path_factory.mktemp("old")
    run = train_small(folder / "run", max_steps=1)
    return with_names(run / "checkpoints" / "best.safetensors", folder / "old.safetensors", DECOMPOSED)


@pytest.fixture(scope="module")
def old_export(old: Path) -> Path:
    folder = old.parent / "export"
    done = ganctl("export", old, "--format", "onnx", "--out", folder)
    assert done.exit_code == 0, done.output
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["class_names"][0] == "café", "an export made today has composed names"
    (folder / "manifest.json").write_text(json.dumps(manifest | {"class_names": list(DECOMPOSED)}))
    return folder


def ganctl(*words: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, words)))


def drawn(source: Path, *words: object) -> Any:
    out = source.parent / "drawn.npz"
    done = ganctl("sample", source, *words, "--seed", 1, "--out", out)
    assert done.exit_code == 0, done.output
    with np.load(out) as arrays:
        return arrays["labels"].tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["old", "old_export"])
def test_a_class_is_asked_for_in_either_form(kind: str, form: Form, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(kind)
    words = [("--digit", unicodedata.normalize(form, name)) for name in ("Übung", "café", "a,b;c=d")]
    assert drawn(source, *(word for pair in words for word in pair)) == [1, 0, 3]
    assert drawn(source, "--text", unicodedata.normalize(form, "é4é")) == [2, 4, 2]


def test_no_other_form_is_taken_for_a_class(old: Path) -> None:
    for name in ("CAFÉ", "cafe", "ｅ"):
        done = ganctl("sample", old, "--digit", name, "--out", old.parent / "x.png")
        assert done.exit_code == 2
        assert f"--label '{name}': expected one of café, Übung, é, a,b;c=d" in done.stderr


@pytest.mark.parametrize("flag", ["--label", "--text"])
@pytest.mark.parametrize("source", ["pretrained", "http://127.0.0.1:9"])
def test_what_is_no_utf8_is_told(source: str, flag: str, tmp_path: Path) -> None:
    done = ganctl("sample", source, flag, "\udcff", "--out", tmp_path / "x.png")
    assert done.exit_code == 2, done.output
    assert f"{flag} '\\udcff': it is not UTF-8" in done.stderr


def test_an_old_checkpoint_fits_data_with_composed_classes(old: Path) -> None:
    register("test-composed", tuple(unicodedata.normalize("NFC", name) for name in DECOMPOSED))
    check_fit(open_checkpoint(old), load_split(DataSettings(name="test-composed"), "test"), old)


def register(name: str, names: tuple[str, ...]) -> None:
    def load(settings: DataSettings, split: str) -> ImageSet:
        images = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        return ImageSet(images, torch.arange(60) % len(names), names)

    if name not in DATASETS.names():
        DATASETS.register(name)(load)


def test_a_data_set_of_ones_own_has_composed_names() -> None:
    register("test-decomposed", DECOMPOSED)
    assert load_split(DataSettings(name="test-decomposed"), "train").class_names[:2] == ("café", "Übung")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("é", "e\u0301"), "found the class name 'é' 2 times (compared in Unicode form NFC)"),
        (("a", "b", "a"), "found the class name 'a' 2 times"),
        (("a", ""), "found an empty class name"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(names: tuple[str, ...], told: str) -> None:
    name = f"test-{'-'.join(map(ascii, names))}"
    register(name, names)
    with pytest.raises(DataError) as caught:
        load_split(DataSettings(name=name), "train")
    assert told in str(caught.value)
