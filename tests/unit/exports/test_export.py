"""An export generates the images of its checkpoint, describes itself in its manifest, and is written atomically."""

import copy
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from ganctl.exports import manifest
from ganctl.exports.errors import ExportError, ParityError
from ganctl.exports.export import export
from ganctl.exports.formats import get_format
from ganctl.exports.formats.base import UnitRangeGenerator
from ganctl.exports.parity import ParityCheck
from ganctl.exports.runtime import open_export
from ganctl.files import sha256_of
from ganctl.training.checkpoint.format import read_checkpoint, weights_digest
from ganctl.training.config.schema import DataSettings
from ganctl.training.evaluation.measure import MEASURE
from ganctl.training.images.source import load_generator
from tests.conftest import train_small
from tests.unit.exports.cards import code_blocks, table


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_run, out=tmp_path_factory.mktemp("export") / "export")


@pytest.fixture(scope="module")
def exported_unconditional(small_unconditional_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_unconditional_run, out=tmp_path_factory.mktemp("export") / "export")


@pytest.fixture(scope="module")
def exported_color(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of an almost untrained run on a folder of images: three classes of 32 × 32 pixels in color."""
    folder = tmp_path_factory.mktemp("color")
    for name, color in (("it's", (40, 200, 60)), ("sea", (30, 60, 220)), ("sun\nset", (250, 220, 30))):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (32, 32), color).save(folder / "images" / name / f"{i}.png")
    settings = [f"data.source={folder / 'images'}", "data.size=32", "data.skip_corrupt=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        train_small(folder / "run", max_steps=1, extra=(*settings, "train.batch_size=8"))
    return export(folder / "run")


def read_manifest(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return fields


def test_an_export_contains_the_generators_the_manifest_the_card_and_samples(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "generator.ts", "generator.onnx", "generator.pt2", "manifest.json", "card.md", "README.md", "samples.png",
    }  # fmt: skip


def test_the_manifest_and_the_card_have_the_scores_and_the_number_of_their_measure(exported: Path) -> None:
    fields = manifest.read(exported)
    metrics, card = fields["checkpoint"]["metrics"], (exported / "card.md").read_text()
    assert metrics["measure"] == MEASURE
    assert f"Measure {MEASURE} " in card
    rows, n = table(card, "score"), f"{metrics['num_images']:,}"
    assert rows["Fréchet distance"][:3] == [f"{metrics['fd']:.4f}", f"{metrics['fd_floor']:.4f}", n]
    assert rows["KID"][:3] == [f"{metrics['kid']:.4f} ± {metrics['kid_se']:.4f}", "0.0000", n]
    accuracies = [f"{metrics[key]:.4f}" for key in ("label_accuracy", "scorer_accuracy")]
    assert rows["label accuracy"][:3] == [*accuracies, n]


def test_the_manifest_names_the_model_the_files_and_the_measured_parity(exported: Path, small_run: Path) -> None:
    fields = manifest.read(exported)
    best = read_checkpoint(small_run / "checkpoints/best.safetensors")
    assert fields["model_version"] == weights_digest(best.state["networks"]["ema"])[:12]
    assert fields["checkpoint"]["sha256"] == best.sha256
    assert fields["checkpoint"]["metrics"] == best.metrics
    assert (fields["z"], fields["image"]) == (
        {"dim": best.state["config"]["model"]["latent_dim"], "distribution": "normal"},
        {"channels": 1, "height": 28, "width": 28},
    )
    digests = {path.name: sha256_of(path) for path in exported.iterdir() if path.name != "manifest.json"}
    assert {"generator.onnx", "card.md", "samples.png"} <= set(digests)
    assert {name: entry["sha256"] for name, entry in fields["files"].items()} == digests
    for name, sizes in fields["parity"].items():
        assert set(sizes) == {"1", "2", "3", "7", "64", "256"}
        assert max(sizes.values()) <= 1e-5, name


def test_an_edited_card_leaves_the_export_valid(exported: Path) -> None:
    card = exported / "card.md"
    before = card.read_bytes()
    card.write_text("our own words", "utf-8")
    try:
        manifest.read(exported)
    finally:
        card.write_bytes(before)


@pytest.mark.parametrize("kind", ["conditional", "unconditional"])
def test_onnx_runtime_generates_the_images_of_the_checkpoint(kind: str, request: pytest.FixtureRequest) -> None:
    suffix = "" if kind == "conditional" else "_unconditional"
    folder: Path = request.getfixturevalue(f"exported{suffix}")
    run: Path = request.getfixturevalue(f"small{suffix}_run")
    generator, _ = load_generator(run / "checkpoints/best.safetensors")
    z, label = torch.randn(5, generator.latent_dim), torch.arange(5)
    expected = (generator(z, label) if generator.conditional else generator(z)).add(1).div(2)
    session = onnxruntime.InferenceSession(folder / "generator.onnx")
    feed = {"z": z.numpy(), "label": label.numpy()}
    images = session.run(["image"], {entry.name: feed[entry.name] for entry in session.get_inputs()})[0]
    assert images.dtype == np.float32
    assert np.abs(images - expected.detach().numpy()).max() <= 1e-5
    assert len(session.get_inputs()) == (2 if generator.conditional else 1)


@pytest.mark.parametrize("case", ["3 classes in color", "10 digits", "unconditional"])
def test_the_code_in_the_card_generates_an_image_of_each_class(
    case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fixtures = {"3 classes in color": "exported_color", "10 digits": "exported"}
    folder: Path = request.getfixturevalue(fixtures.get(case, "exported_unconditional"))
    code = code_blocks((folder / "card.md").read_text("utf-8"), "python")[-1] + "print(images.dtype, images.shape)"
    shutil.copytree(folder, tmp_path / "copy")  # the code writes images.png
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "copy", capture_output=True, text=True, check=False
    )
    shape = "(3, 3, 32, 32)" if case == "3 classes in color" else "(10, 1, 28, 28)"
    assert done.stdout == f"float32 {shape}\n", done.stderr


def test_an_export_stores_the_data_settings_of_its_run(exported_color: Path, tmp_path: Path) -> None:
    opened = open_export(exported_color)
    assert (opened.data.size, opened.data.skip_corrupt) == (32, True)
    assert read_manifest(exported_color)["data"] == "images", "without its folder, which is private"
    assert re.search(r"manifest\.json:.*'images'.*--set data\.source=", str(opened.data_error))
    shutil.copytree(exported_color, tmp_path / "old")
    fields = read_manifest(tmp_path / "old")
    del fields["data_settings"]  # as in exports of earlier versions
    (tmp_path / "old/manifest.json").write_text(json.dumps(fields))
    assert open_export(tmp_path / "old").data == DataSettings()


def test_the_exported_files_contain_the_model_version_and_the_class_names(exported: Path) -> None:
    fields = read_manifest(exported)
    model = onnx.load(exported / "generator.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["model_version"] == fields["model_version"]
    assert json.loads(metadata["class_names"]) == list("0123456789")
    extra_files = {"model_version": "", "z": ""}
    torch.jit.load(str(exported / "generator.ts"), _extra_files=extra_files)
    assert extra_files["model_version"] == fields["model_version"].encode()
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_torchscript_runs_without_ganctl(exported: Path, tmp_path: Path) -> None:
    z = f"torch.zeros(2, {manifest.read(exported)['z']['dim']})"
    code = f"import torch, sys; m = torch.jit.load(sys.argv[1]); x = m({z}, torch.tensor([1, 2]))\n"
    code += "assert x.shape == (2, 1, 28, 28) and 'ganctl' not in sys.modules"
    command = [sys.executable, "-W", "ignore", "-c", code, str(exported / "generator.ts")]
    subprocess.run(command, check=True, cwd=tmp_path)


def test_a_file_that_generates_other_images_is_refused_and_no_export_is_left(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = get_format("onnx").write

    def shifted(generator: Any, metadata: Any) -> bytes:
        with torch.no_grad():
            bias = generator.net[0].bias
            bias.add_(1e-3)
            content = write(generator, metadata)
            bias.sub_(1e-3)
        return content

    monkeypatch.setattr("ganctl.exports.formats.onnx.write", shifted)
    with pytest.raises(ParityError, match=r"generator\.onnx: .*\d\.\d+e-\d+ .*\bN = \d.*--format") as raised:
        export(small_run, out=tmp_path / "export")
    assert raised.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_nan_images_fail_the_parity_check(small_run: Path) -> None:
    generator, _ = load_generator(small_run / "checkpoints/best.safetensors")
    with pytest.raises(ParityError, match=r"x: .*\bnan\b"):
        ParityCheck(generator).check("x", lambda z, label: torch.full((len(z), 1, 28, 28), torch.nan))


def test_a_file_may_round_otherwise_where_the_generator_amplifies_rounding_errors(small_run: Path) -> None:
    generator, _ = load_generator(small_run / "checkpoints/best.safetensors")
    check, exact = ParityCheck(generator), UnitRangeGenerator(copy.deepcopy(generator).double())
    run = partial(_plus, exact, 3e-5)
    with pytest.raises(ParityError, match=r"float64 by 3\.00e-05, expected at most 2 × \d"):
        check.check("x", run)
    check.rounding = dict.fromkeys(check.rounding, 2e-5)  # of a generator that amplifies
    assert check.check("x", run).float64[64] == pytest.approx(3e-5, rel=1e-3)


def _plus(network: torch.nn.Module, difference: float, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    images: torch.Tensor = network(z.double(), label) + difference
    return images


def test_exporting_again_replaces_an_export_but_no_other_folder(small_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    export(small_run, out=out, formats=["torchscript"])
    first = read_manifest(out)
    export(small_run, out=out, formats=["torchscript"])
    assert read_manifest(out)["model_version"] == first["model_version"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match=f"{tmp_path / 'mine'}: found .* --out"):
        export(small_run, out=tmp_path / "mine")
    (tmp_path / "mine/manifest.json").write_text('{"name": "a web application"}')
    with pytest.raises(ExportError, match=f"{tmp_path / 'mine'}: found .* --out"):
        export(small_run, out=tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").exists()
    (tmp_path / "project").mkdir()
    (tmp_path / "project/README.md").write_text("# My project")
    with pytest.raises(ExportError, match=f"{tmp_path / 'project'}: found .* --out"):
        export(small_run, out=tmp_path / "project")
    assert (tmp_path / "project/README.md").read_text() == "# My project"


def test_the_same_checkpoint_has_the_same_model_version(exported: Path, small_run: Path, tmp_path: Path) -> None:
    again = export(small_run, out=tmp_path / "again", formats=["torchscript"])
    assert read_manifest(again)["model_version"] == read_manifest(exported)["model_version"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "generator.onnx").write_bytes(b"cut"), r"generator\.onnx: .*\bSHA-256\b"),
        (lambda folder: (folder / "generator.ts").unlink(), r"generator\.ts: (?!.*\bSHA-256\b).*\bmanifest\.json\b"),
        (lambda folder: (folder / "manifest.json").unlink(), r"export: .*\bmanifest\.json\b.*ganctl export"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json:.*\bline 1\b"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"schema_version": 99}'),
            r"manifest\.json:.*\bschema_version\b.*\b99\b",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text('{"schema_version": 1}'),
            r"manifest\.json:.*\bmodel_version\b",
        ),
    ],
)
def test_the_error_of_a_damaged_export_names_the_file_and_the_cause(
    damage: Any, message: str, exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(ExportError, match=message) as raised:
        open_export(folder)
    assert raised.value.exit_code == 4


def test_an_opened_export_generates_the_images_of_its_checkpoint(exported: Path, small_run: Path) -> None:
    from ganctl.training.sampling.inspection import open_checkpoint

    opened, checkpoint = open_export(exported).source, open_checkpoint(small_run).source
    assert opened is not None
    assert checkpoint is not None
    z, label = torch.randn(300, checkpoint.latent_dim), torch.arange(300) % 10
    difference = opened.generate(z, label).int() - checkpoint.generate(z, label).int()
    assert difference.abs().max() <= 1
