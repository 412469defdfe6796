"""Class names are stored and compared in the composed Unicode form (NFC), also in files of earlier versions."""

import json
import re
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
    """Writes a copy of a checkpoint with other class names; returns its path."""
    state = read_checkpoint(source).state
    write_checkpoint(target, {**state, "data": {**state["data"], "class_names": list(names)}})
    return target


@pytest.fixture(scope="module")
def old_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint with decomposed names, as an earlier version wrote them on macOS."""
    folder = tmp_path_factory.mktemp("old")
    run = train_small(folder / "run", max_steps=1)
    return with_names(run / "checkpoints" / "best.safetensors", folder / "old.safetensors", DECOMPOSED)


@pytest.fixture(scope="module")
def old_export(old_checkpoint: Path) -> Path:
    """Export with decomposed names."""
    folder = old_checkpoint.parent / "export"
    done = ganctl("export", old_checkpoint, "--format", "onnx", "--out", folder)
    assert done.exit_code == 0, done.output
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["class_names"][0] == "café", "a new export has composed names"
    (folder / "manifest.json").write_text(json.dumps(manifest | {"class_names": list(DECOMPOSED)}))
    return folder


def ganctl(*words: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, words)))


def sampled_labels(source: Path, *words: object) -> Any:
    out = source.parent / "sampled.npz"
    done = ganctl("sample", source, *words, "--seed", 1, "--out", out)
    assert done.exit_code == 0, done.output
    with np.load(out) as arrays:
        return arrays["labels"].tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["old_checkpoint", "old_export"])
def test_a_class_is_found_by_either_unicode_form_of_its_name(
    kind: str, form: Form, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(kind)
    words = [("--digit", unicodedata.normalize(form, name)) for name in ("Übung", "café", "a,b;c=d")]
    assert sampled_labels(source, *(word for pair in words for word in pair)) == [1, 0, 3]
    assert sampled_labels(source, "--text", unicodedata.normalize(form, "é4é")) == [2, 4, 2]


def test_other_spellings_of_a_class_name_are_refused(old_checkpoint: Path) -> None:
    for name in ("CAFÉ", "cafe", "ｅ"):
        done = ganctl("sample", old_checkpoint, "--digit", name, "--out", old_checkpoint.parent / "x.png")
        assert done.exit_code == 2
        assert re.search(rf"--label '{name}': .*café, Übung, é, a,b;c=d", done.stderr)


@pytest.mark.parametrize("flag", ["--label", "--text"])
@pytest.mark.parametrize("source", ["pretrained", "http://127.0.0.1:9"])
def test_a_class_name_that_is_not_utf_8_is_refused(source: str, flag: str, tmp_path: Path) -> None:
    done = ganctl("sample", source, flag, "\udcff", "--out", tmp_path / "x.png")
    assert done.exit_code == 2, done.output
    assert re.search(rf"{flag} '\\udcff': .*\bUTF-8\b", done.stderr)


def test_an_old_checkpoint_fits_data_with_composed_class_names(old_checkpoint: Path) -> None:
    register("test-composed", tuple(unicodedata.normalize("NFC", name) for name in DECOMPOSED))
    test = load_split(DataSettings(source="test-composed"), "test")
    check_fit(open_checkpoint(old_checkpoint), test, old_checkpoint)


def register(name: str, names: tuple[str, ...]) -> None:
    def load(settings: DataSettings, split: str) -> ImageSet:
        images = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        return ImageSet(images, torch.arange(60) % len(names), names)

    if name not in DATASETS.names():
        DATASETS.register(name)(load)


def test_a_custom_data_set_has_composed_names() -> None:
    register("test-decomposed", DECOMPOSED)
    assert load_split(DataSettings(source="test-decomposed"), "train").class_names[:2] == ("café", "Übung")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("é", "e\u0301"), r"'é' 2\b.*\bNFC\b"),
        (("a", "b", "a"), r"'a' 2\b"),
        (("a", ""), r"\bempty\b"),
    ],
)
def test_equal_and_empty_class_names_are_refused(names: tuple[str, ...], reason: str) -> None:
    name = f"test-{'-'.join(map(ascii, names))}"
    register(name, names)
    with pytest.raises(DataError, match=rf"^data\.source = .*: .*{reason}"):
        load_split(DataSettings(source=name), "train")
