"""Files of another version of ganctl: what is not needed does not matter, and what cannot be understood is told."""

import hashlib
import json
import re
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

import ganctl
from ganctl.exports.export import export
from ganctl.main import cli
from ganctl.training.checkpoint.format import read_checkpoint, write_checkpoint

OURS = ganctl.__version__
OTHER = f"9{OURS[1:]}"  # as long as ours, so that a file's bytes can be exchanged
BOTH = f"written by ganctl {OTHER}, this is ganctl {OURS}"

Change = Callable[[dict[str, Any]], Any]


def run(*words: object) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert "defect" not in result.output, result.output
    assert "Traceback" not in result.output, result.output
    return result


def exchange(path: Path, before: bytes, after: bytes) -> None:
    """Replaces bytes in a checkpoint's header, and renews its digest."""
    assert len(before) == len(after)
    content = path.read_bytes()
    assert before in content
    stated = re.search(rb'"sha256":"([0-9a-f]{64})"', content)
    assert stated is not None
    blank = content.replace(before, after).replace(stated[1], b"0" * 64)
    path.write_bytes(blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1))


@pytest.fixture(scope="module")
def other(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Change], Path]:
    """A run of another version, whose state is changed by a function."""

    def make(change: Change) -> Path:
        state = read_checkpoint(small_run / "checkpoints/best.safetensors").state
        change(state)
        run_dir = tmp_path_factory.mktemp("other")
        for name in ("best", "last"):
            path = run_dir / "checkpoints" / f"{name}.safetensors"
            write_checkpoint(path, state)
            exchange(path, f'"{OURS}"'.encode(), f'"{OTHER}"'.encode())
        return run_dir

    return make


def renamed(section: str, before: str, after: str) -> Change:
    return lambda state: state["config"][section].update({after: state["config"][section].pop(before)})


def valued(section: str, **values: Any) -> Change:
    return lambda state: state["config"][section].update(values)


NOT_NEEDED: dict[str, Change] = {
    "nothing": lambda state: None,
    "renamed settings": renamed("train", "duration", "length"),
    "values that are none here": lambda state: [
        valued("loss", name="newest", r1="much")(state), valued("optimizer", lr=-1)(state)
    ],
    "a section, and a preset": lambda state: state["config"].update(schedule={"kind": "wave"}, preset="turbo"),
    "another discriminator": valued("model", discriminator="vit", conditioning="film", discriminator_depth=3),
    "data of another kind": lambda state: [
        renamed("data", "name", "source")(state), valued("data", size=1024)(state)
    ],
    "settings of this version are absent": lambda state: [
        state["config"]["train"].clear(), state["config"]["model"].pop("options"), state["config"].pop("log")
    ],
}  # fmt: skip

NEEDED: dict[str, tuple[Change, str]] = {
    "a renamed setting": (
        renamed("model", "latent_dim", "latent_dims"),
        r"model\.latent_dims = 128 is no setting of this version\. Did you mean",
    ),
    "a new setting": (valued("model", attention=True), r"model\.attention = True is no setting of this version"),
    "a network": (
        valued("model", generator="stylegan"),
        r"model\.generator = 'stylegan' is unknown in this version, expected one of con",
    ),
    "a value": (valued("model", base_channels="wide"), r"model\.base_channels = 'wide' is invalid in this version"),
    "weights": (
        valued("model", base_channels=99),
        r"its weights do not fit model\.generator = 'conv' .*\(size mismatch",
    ),
    "no weights": (lambda state: state["networks"].pop("ema"), r"it has another structure \(KeyError\('ema'\)\)"),
    "no data": (lambda state: state.pop("data"), r"it has another structure \(KeyError\('data'\)\)"),
    "no settings": (lambda state: state.pop("config"), "it holds no settings"),
}


@pytest.mark.parametrize("change", NOT_NEEDED)
def test_drawing_and_exporting_pass_over_what_they_do_not_need(
    change: str, other: Callable[[Change], Path], small_run: Path, tmp_path: Path
) -> None:
    source = other(NOT_NEEDED[change])
    images = []
    for place, of in (("one", small_run), ("two", source)):
        result = run("sample", of, "--count", 3, "--seed", 1, "--out", tmp_path / f"{place}.npz")
        assert result.exit_code == 0, result.output
        images.append(np.load(tmp_path / f"{place}.npz")["images"])
    assert np.array_equal(*images)
    result = run("export", source, "--format", "torchscript", "--out", tmp_path / "export")
    assert result.exit_code == 0, result.output
    assert run("sample", tmp_path / "export", "--out", tmp_path / "of-export.png").exit_code == 0


@pytest.mark.parametrize("change", NEEDED)
def test_what_drawing_needs_and_cannot_understand_is_told_with_both_versions(
    change: str, other: Callable[[Change], Path], tmp_path: Path
) -> None:
    source, told = other(NEEDED[change][0]), NEEDED[change][1]
    for words in (["sample", source, "--out", "x.png"], ["evaluate", source], ["export", source, "--out", "export"]):
        result = run(*words)
        assert result.exit_code == 4, result.output
        assert re.search(f"best.safetensors: {re.escape(BOTH)}: {told}", result.output), result.output
        assert f"Use ganctl {OTHER}, or train again." in result.output


def test_a_checkpoint_of_a_later_form_is_told_and_never_passed_over(
    other: Callable[[Change], Path], tmp_path: Path
) -> None:
    source = other(lambda state: None)
    last = source / "checkpoints/last.safetensors"
    exchange(last, b"ganctl-checkpoint-1", b"ganctl-checkpoint-2")
    resume = ["train", "--run-dir", source, "--resume", "auto", "--dry-run"]
    begin = ["train", "--preset", "quick", "--init-from", last, "--dry-run"]
    for words in (["sample", last, "--out", "x.png"], ["inspect", source], resume, begin):
        result = run(*words)
        assert result.exit_code == 4, result.output
        assert f"last.safetensors: {BOTH}: it has the format 'ganctl-checkpoint-2', expected" in result.output


def test_evaluate_wants_to_be_told_the_data_that_it_does_not_know(
    other: Callable[[Change], Path], tmp_path: Path
) -> None:
    for change, told in (
        (renamed("data", "name", "source"), "data.name is missing"),
        (valued("data", name="cifar100"), "data.name = 'cifar100' is unknown in this version"),
        (valued("data", size=31), "data.size = 31 is invalid in this version"),
    ):
        source = other(change)
        result = run("evaluate", source, "--num-images", 100)
        assert (result.exit_code, f"{BOTH}: {told}" in result.output) == (4, True), result.output
        assert "Name the images by --set data.name=…" in result.output
        result = run("evaluate", source, "--num-images", 100, "--set", "data.name=mnist")
        assert result.exit_code == 0, result.output


def test_resuming_tells_every_setting_that_is_another_versions(other: Callable[[Change], Path]) -> None:
    def change(state: dict[str, Any]) -> None:
        renamed("train", "duration", "length")(state)
        valued("loss", name="newest")(state)
        valued("optimizer", beta1=2.0)(state)
        state["config"]["schedule"] = {"kind": "wave"}

    source = other(change)
    resume = ["train", "--run-dir", source, "--resume", "auto", "--dry-run"]
    result = run(*resume)
    assert result.exit_code == 4
    for told in (
        f"last.safetensors: {BOTH}:", "train.length = ", "loss.name = 'newest'", "optimizer.beta1 = 2.0",
        "schedule.kind = 'wave'", f"Use ganctl {OTHER}, or give --allow-changes to resume without these settings.",
    ):  # fmt: skip
        assert told in result.output
    result = run(*resume, "--allow-changes")
    assert result.exit_code == 0, result.output
    assert "left out: train.length = " in result.output
    assert "missing settings take their defaults: loss.name, optimizer.beta1, train.duration" not in result.output


def test_resuming_tells_which_settings_an_older_run_lacks(other: Callable[[Change], Path]) -> None:
    source = other(lambda state: state["config"]["train"].pop("tf32"))
    result = run("train", "--run-dir", source, "--resume", "auto", "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"last.safetensors: {BOTH}: missing settings take their defaults: train.tf32" in result.output


def test_a_run_may_begin_with_networks_of_another_version(other: Callable[[Change], Path]) -> None:
    words = ["train", "--preset", "conv", "--set", "model.base_channels=8", "--dry-run", "--init-from"]
    result = run(*words, other(NOT_NEEDED["renamed settings"]))
    assert result.exit_code == 0, result.output
    result = run(*words, other(lambda state: state["networks"].pop("generator")))
    assert result.exit_code == 4
    assert f"{BOTH}: it does not fit these settings: 'generator'" in result.output


def test_a_checkpoint_without_a_version_is_read_as_it_is(small_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run/checkpoints/best.safetensors"
    write_checkpoint(path, read_checkpoint(small_run / "checkpoints/best.safetensors").state)
    exchange(path, b'"ganctl_version":', b'"of_no_concern_":')
    assert run("sample", path, "--out", tmp_path / "x.png").exit_code == 0
    assert json.loads(run("inspect", path, "--json").output)["ganctl_version"] is None


def test_the_version_stands_in_every_file(small_run: Path, tmp_path: Path) -> None:
    assert (
        tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))["project"]["version"] == OURS
    )
    assert json.loads(run("inspect", small_run, "--json").output)["best"]["ganctl_version"] == OURS
    assert json.loads((small_run / "environment.json").read_text())["versions"]["ganctl"] == OURS
    assert (small_run / "config.toml").read_text("utf-8").startswith(f"# Written by ganctl {OURS}\n")
    folder = export(small_run, out=tmp_path / "export", formats=["torchscript", "onnx"])
    assert json.loads(run("inspect", folder, "--json").output)["ganctl_version"] == OURS
    noted = {entry.key: entry.value for entry in onnx.load(folder / "generator.onnx").metadata_props}
    assert noted["ganctl_version"] == OURS
    extra: dict[str, Any] = {"ganctl_version": ""}
    torch.jit.load(str(folder / "generator.ts"), _extra_files=extra)
    assert extra["ganctl_version"] == OURS.encode()
    assert run("package", folder).exit_code == 0
    told = json.loads(run("inspect", tmp_path / "digits.mar", "--json").output)
    assert (told["ganctl_version"], told["config"]["handler"]["ganctl_version"]) == (OURS, OURS)
    assert run("sample", folder, "--out", tmp_path / "x.npz").exit_code == 0
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert archive.comment == f"ganctl {OURS}".encode()


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_run, out=tmp_path_factory.mktemp("of") / "export", formats=["onnx"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": 2}, "2"),
        ({"z": {"dim": 64, "distribution": "uniform"}}, "uniform"),
        ({"class_names": {"0": "zero"}}, "class_names"),
        ({"files": ["generator.onnx"]}, "files"),
    ],
)
def test_an_export_that_cannot_be_understood_is_told_with_both_versions(
    change: dict[str, Any], told: str, exported: Path
) -> None:
    path = exported / "manifest.json"
    before = path.read_text("utf-8")
    try:
        path.write_text(json.dumps(json.loads(before) | {"ganctl_version": OTHER} | change), "utf-8")
        for words in (["sample", exported, "--out", "x.png"], ["evaluate", exported], ["inspect", exported]):
            result = run(*words)
            assert (result.exit_code, BOTH in result.output, told in result.output) == (4, True, True), result.output
        result = run("package", exported)
        assert (result.exit_code, told in result.output) == (4, True), result.output
        assert BOTH in result.output or "files" in change
    finally:
        path.write_text(before, "utf-8")


def test_an_export_with_more_fields_than_known_draws(exported: Path, tmp_path: Path) -> None:
    path = exported / "manifest.json"
    before = path.read_text("utf-8")
    try:
        more = {"ganctl_version": OTHER, "preset": "turbo", "watermark": {"kind": "none"}, "data": "cifar100"}
        path.write_text(json.dumps(json.loads(before) | more), "utf-8")
        assert run("sample", exported, "--out", tmp_path / "x.png").exit_code == 0
        assert run("package", exported, "--out", tmp_path).exit_code == 0
        assert json.loads(run("inspect", tmp_path / "digits.mar", "--json").output)["ganctl_version"] == OTHER
        result = run("evaluate", exported, "--num-images", 100)
        assert (result.exit_code, f"{BOTH}: data.name = 'cifar100'" in result.output) == (4, True), result.output
        assert run("evaluate", exported, "--num-images", 100, "--set", "data.name=mnist").exit_code == 0
    finally:
        path.write_text(before, "utf-8")


def test_the_settings_file_of_another_version_is_told(small_run: Path, tmp_path: Path) -> None:
    text = (small_run / "config.toml").read_text("utf-8").replace(OURS, OTHER, 1).replace("\nduration", "\nlength", 1)
    (tmp_path / "config.toml").write_text(text, "utf-8")
    result = run("train", "--config", tmp_path / "config.toml", "--dry-run")
    assert result.exit_code == 3
    assert f"config.toml: {BOTH}: unknown setting 'train.length'" in result.output
