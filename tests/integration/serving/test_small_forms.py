"""Both hosts serve the small forms of an export: the pictures are those of the small file."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.common.latents import latents
from ganctl.common.pixels import to_uint8
from ganctl.exports.formats import FILES, SMALL_FORMS, get_format
from ganctl.serving.archive.mar import describe_archive, package
from ganctl.training.images.source import load_generator
from tests import http
from tests.integration.serving.conftest import ENGINES, Engine, running
from tests.unit.serving.small_export import entry, write_export


@pytest.fixture(scope="module")
def small_export(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of small forms, without the scores that `ganctl export` would accept them by."""
    generator, _ = load_generator(small_run / "checkpoints/best.safetensors")
    folder = write_export(
        tmp_path_factory.mktemp("small") / "export", z={"dim": generator.latent_dim, "distribution": "normal"}
    )
    fields = json.loads((folder / "manifest.json").read_text())
    for form in SMALL_FORMS:
        content = get_format(form).write(generator, {})
        (folder / FILES[form]).write_bytes(content)
        fields["files"][FILES[form]] = entry(content)
    (folder / "manifest.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("engine", "form"),
    [
        pytest.param(engine, form, marks=pytest.mark.soak if engine == "torchserve" else ())
        for engine in ENGINES
        for form in SMALL_FORMS
    ],
)
def test_a_host_serves_a_small_form(form: str, engine: Engine, small_export: Path, tmp_path: Path) -> None:
    seed, digits = 5, [7, 0, 3, 9, 1]
    with running(small_export, tmp_path, "--backend", form, engine=engine) as served:
        accept = {"Accept": "application/x-npz"}
        reply = http.post(f"{served.url}/predictions/digits", json={"seed": seed, "digits": digits}, headers=accept)
    assert reply.status_code == 200
    with np.load(io.BytesIO(reply.content)) as arrays:
        found, labels = arrays["images"], arrays["labels"]
    run = get_format(form).load((small_export / FILES[form]).read_bytes())
    fields = json.loads((small_export / "manifest.json").read_text())
    z = torch.from_numpy(latents(seed, len(digits), fields["z"]["dim"]))
    expected = to_uint8(run(z, torch.tensor(digits)).numpy())[:, 0]
    assert labels.tolist() == digits
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_an_archive_names_its_form(small_export: Path, tmp_path: Path) -> None:
    described = describe_archive(package(small_export, tmp_path, "onnx-int8"))
    assert (described["backend"], described["model_file"]) == ("onnx-int8", "generator.int8.onnx")
