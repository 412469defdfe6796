"""Exports of generators of transparent, colored and gray images, with and without labels, of 16 to 128 pixels."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from ganctl.exports.errors import ParityError
from ganctl.exports.export import export
from ganctl.exports.formats import get_format
from ganctl.exports.formats.base import example_inputs
from ganctl.exports.parity import ParityCheck
from ganctl.exports.runtime import open_export
from ganctl.training.images.source import GeneratorSource, load_generator
from ganctl.training.models.base import Generator
from tests.any_images import disks, save_folder, untrained_run
from tests.unit.exports.cards import code_blocks

ATTRIBUTION = "Ada Lovelace & contributors"


def read_manifest(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return fields


@pytest.fixture(scope="module")
def rgba_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on three classes of RGBA images with a license, whose generator draws mostly transparent pixels."""
    folder = tmp_path_factory.mktemp("rgba")
    source = save_folder(folder / "disks", disks(60, 16), labeled=True)
    (source / "LICENSE").write_text("CC-BY-4.0\n\nThe full text.\n")
    attribution = f"data.attribution={ATTRIBUTION}"
    return untrained_run(folder / "run", source, attribution, contrast=40, alpha=-5.0)


@pytest.fixture(scope="module")
def rgba(rgba_run: Path) -> Path:
    return export(rgba_run, formats=["torchscript", "onnx"])


@pytest.fixture(scope="module")
def gray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a run on a flat folder of gray TIFF files of 20 × 20 pixels."""
    folder = tmp_path_factory.mktemp("gray")
    source = save_folder(folder / "gray", disks(40, 20)[..., 3], suffix=".tiff")
    return export(untrained_run(folder / "run", source), formats=["torchscript", "onnx"])


def load(run: Path) -> Generator:
    return load_generator(run / "checkpoints/best.safetensors")[0]


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_the_files_return_colors_that_are_not_multiplied_with_alpha(name: str, rgba: Path, rgba_run: Path) -> None:
    generator = load(rgba_run)
    file = rgba / {"onnx": "generator.onnx", "torchscript": "generator.ts"}[name]
    z, label = example_inputs(generator, 5, seed=3)
    with torch.no_grad():
        images = get_format(name).load(file.read_bytes())(z, label)
        premultiplied = (generator(z, label) + 1) / 2
    assert images.shape == (5, 4, 16, 16)
    assert 0 <= images.min() <= images.max() <= 1
    alpha = premultiplied[:, 3:]
    torch.testing.assert_close(images[:, 3:], alpha, rtol=0, atol=1e-5)
    seen = alpha.expand(-1, 3, -1, -1) > 0.02
    assert 0.01 < seen.float().mean() < 0.9, "transparent and opaque pixels"
    expected = (premultiplied[:, :3] / alpha).clamp(max=1)
    torch.testing.assert_close(images[:, :3][seen], expected[seen], rtol=0, atol=1e-3)


def test_the_parity_of_transparent_images_is_that_of_what_is_visible(rgba: Path, rgba_run: Path) -> None:
    """Rounding errors of colors, divided by a small alpha, are no differences; those of alpha and of colors are."""
    for name, sizes in read_manifest(rgba)["parity"].items():
        assert set(sizes) == {"1", "2", "3", "7", "64", "256"}, name
        assert max(sizes.values()) <= 1e-5, name
    generator = load(rgba_run)
    run = get_format("torchscript").load((rgba / "generator.ts").read_bytes())
    check = ParityCheck(generator)
    assert max(check.check("same", run).float32.values()) <= 1e-5
    for channels in (slice(0, 3), slice(3, 4)):

        def other(*inputs: torch.Tensor, channels: slice = channels) -> torch.Tensor:
            images = run(*inputs).clone()
            images[:, channels] = 0.9 * images[:, channels]
            return images

        with pytest.raises(ParityError, match=r"^other: "):
            check.check("other", other)


def test_an_opened_export_draws_the_images_of_its_checkpoint(rgba: Path, rgba_run: Path) -> None:
    source = open_export(rgba).source
    assert source is not None
    z, label = torch.randn(100, source.latent_dim), torch.arange(100) % 3
    found = source.generate(z, label).int()
    expected = GeneratorSource(load(rgba_run), source.class_names).generate(z, label).int()
    assert (found - expected)[:, 3].abs().max() <= 1
    assert ((found - expected) * (expected[:, 3:] > 0)).abs().max() <= 1


def test_manifest_metadata_and_card_have_the_license_and_the_authors_of_the_images(rgba: Path, gray: Path) -> None:
    fields = read_manifest(rgba)
    assert (fields["license"], fields["attribution"]) == ("CC-BY-4.0", ATTRIBUTION)
    assert fields["image"] == {"channels": 4, "height": 16, "width": 16}
    metadata = {entry.key: entry.value for entry in onnx.load(rgba / "generator.onnx").metadata_props}
    extra_files = {"attribution": ""}
    torch.jit.load(str(rgba / "generator.ts"), _extra_files=extra_files)
    assert metadata["attribution"] == ATTRIBUTION == extra_files["attribution"].decode()  # type: ignore[attr-defined]  # torch fills in bytes
    card = (rgba / "card.md").read_text()
    assert "CC-BY-4.0" in card
    assert ATTRIBUTION in card
    assert "alpha" in card
    other = (gray / "card.md").read_text()
    assert "alpha" not in other
    assert not re.search(r"\| --- \|\n(?!\|)", other), "no table without rows"
    assert (read_manifest(gray)["license"], read_manifest(gray)["attribution"]) == (None, None)
    assert str(rgba.parent.parent) not in card + (rgba / "manifest.json").read_text(), "the path is private"


def test_an_unlabeled_generator_has_no_label_and_no_class_names(gray: Path) -> None:
    fields = read_manifest(gray)
    assert (fields["conditional"], fields["class_names"], fields["inputs"]) == (False, [], ["z"])
    assert fields["image"] == {"channels": 1, "height": 20, "width": 20}
    session = onnxruntime.InferenceSession(gray / "generator.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["z"]
    opened = open_export(gray).source
    assert opened is not None
    assert (opened.conditional, opened.class_names) == (False, ())


def test_samples_png_shows_transparent_images_of_each_class_and_unlabeled_ones_in_ten_columns(
    rgba: Path, gray: Path
) -> None:
    with Image.open(rgba / "samples.png") as picture:
        assert (picture.mode, picture.size) == ("RGBA", (2 * 16 * 3, 2 * 16 * 8))
        assert np.ptp(np.asarray(picture)[..., 3]) > 200
    with Image.open(gray / "samples.png") as picture:
        assert (picture.mode, picture.size) == ("L", (2 * 20 * 10, 2 * 20 * 8))


@pytest.mark.parametrize("kind", ["rgba", "gray"])
def test_the_code_in_the_card_generates_images(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(kind)
    code = code_blocks((folder / "card.md").read_text("utf-8"), "python")[-1] + "print(images.dtype, images.shape)"
    shutil.copytree(folder, tmp_path / "copy")  # the code writes images.png
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "copy", capture_output=True, text=True, check=False
    )
    assert done.stdout == f"float32 {(3, 4, 16, 16) if kind == 'rgba' else (10, 1, 20, 20)}\n", done.stderr


@pytest.mark.parametrize(("size", "mode"), [pytest.param(128, "RGBA", marks=pytest.mark.soak), (48, "RGB")])
def test_larger_images_are_exported_with_their_size(size: int, mode: str, tmp_path: Path) -> None:
    images = disks(12, size)
    source = save_folder(tmp_path / "images", images if mode == "RGBA" else images[..., :3])
    folder = export(untrained_run(tmp_path / "run", source, "model.base_channels=4"), formats=["onnx"])
    fields = read_manifest(folder)
    assert fields["image"] == {"channels": len(mode), "height": size, "width": size}
    assert max(fields["parity"]["generator.onnx"].values()) <= 1e-5
