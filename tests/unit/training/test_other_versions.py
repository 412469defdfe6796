"""Files of another version of ganctl: commands ignore parts that they do not need, and name parts that are invalid."""

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
OTHER = f"9{OURS[1:]}"  # of equal length, so that it can replace the version in a file's header
BOTH = rf"\b{re.escape(OTHER)}\b.*\b{re.escape(OURS)}\b"  # pattern of a message that names both versions

Change = Callable[[dict[str, Any]], Any]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert "defect" not in result.output, result.output
    assert "Traceback" not in result.output, result.output
    return result


def replace_in_header(path: Path, before: bytes, after: bytes) -> None:
    """Replaces bytes in the header of a checkpoint, and updates its digest."""
    assert len(before) == len(after)
    content = path.read_bytes()
    assert before in content
    digest = re.search(rb'"sha256":"([0-9a-f]{64})"', content)
    assert digest is not None
    blank = content.replace(before, after).replace(digest[1], b"0" * 64)
    path.write_bytes(blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1))


@pytest.fixture(scope="module")
def other(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Change], Path]:
    """Returns a function that creates a run of another version with a changed state."""

    def make(change: Change) -> Path:
        state = read_checkpoint(small_run / "checkpoints/best.safetensors").state
        change(state)
        run_dir = tmp_path_factory.mktemp("other")
        for name in ("best", "last"):
            path = run_dir / "checkpoints" / f"{name}.safetensors"
            write_checkpoint(path, state)
            replace_in_header(path, f'"{OURS}"'.encode(), f'"{OTHER}"'.encode())
        return run_dir

    return make


def rename_setting(section: str, before: str, after: str) -> Change:
    return lambda state: state["config"][section].update({after: state["config"][section].pop(before)})


def set_values(section: str, **values: Any) -> Change:
    return lambda state: state["config"][section].update(values)


def earlier_data(state: dict[str, Any], **settings: Any) -> None:
    """Replaces data.source by data.name and data.root, as in checkpoints of earlier versions."""
    state["config"]["data"] = {"size": 28, "channels": "auto", "skip_corrupt": False, **settings}


IGNORED: dict[str, Change] = {
    "nothing": lambda state: None,
    "renamed settings": rename_setting("train", "duration", "length"),
    "invalid values": lambda state: [
        set_values("loss", name="newest", r1="much")(state), set_values("optimizer", lr=-1)(state)
    ],
    "a section, and a preset": lambda state: state["config"].update(schedule={"kind": "wave"}, preset="turbo"),
    "another discriminator": set_values("model", discriminator="vit", conditioning="film", discriminator_depth=3),
    "data of another kind": lambda state: [
        rename_setting("data", "source", "dataset")(state), set_values("data", size=1024)(state)
    ],
    "data settings of an earlier version": lambda state: earlier_data(state, name="folder", root="/images"),
    "absent settings of this version": lambda state: [
        state["config"]["train"].clear(), state["config"]["model"].pop("options"), state["config"].pop("log")
    ],
}  # fmt: skip

INVALID: dict[str, tuple[Change, str]] = {  # changes, and patterns of their errors
    "a renamed setting": (
        rename_setting("model", "latent_dim", "latent_dims"),
        r"model\.latent_dims = 128 .*\bmodel\.latent_dim\b",
    ),
    "a new setting": (set_values("model", attention=True), r"model\.attention = True "),
    "a network": (
        set_values("model", generator="stylegan"),
        r"model\.generator = 'stylegan' .*\bconv, mlp\b",
    ),
    "a value": (set_values("model", base_channels="wide"), r"model\.base_channels = 'wide' "),
    "weights": (
        set_values("model", base_channels=99),
        r"model\.generator = 'conv' .*\bsize mismatch\b",
    ),
    "no weights": (lambda state: state["networks"].pop("ema"), r"KeyError\('ema'\)"),
    "no data": (lambda state: state.pop("data"), r"KeyError\('data'\)"),
    "no settings": (lambda state: state.pop("config"), "no settings"),
}


@pytest.mark.parametrize("change", IGNORED)
def test_sample_and_export_ignore_stored_settings_that_they_do_not_need(
    change: str, other: Callable[[Change], Path], small_run: Path, tmp_path: Path
) -> None:
    source = other(IGNORED[change])
    images = []
    for name, run_dir in (("one", small_run), ("two", source)):
        result = run("sample", run_dir, "--count", 3, "--seed", 1, "--out", tmp_path / f"{name}.npz")
        assert result.exit_code == 0, result.output
        images.append(np.load(tmp_path / f"{name}.npz")["images"])
    assert np.array_equal(*images)
    result = run("export", source, "--format", "torchscript", "--out", tmp_path / "export")
    assert result.exit_code == 0, result.output
    assert run("sample", tmp_path / "export", "--out", tmp_path / "of-export.png").exit_code == 0


@pytest.mark.parametrize("change", INVALID)
def test_the_error_for_an_invalid_part_of_the_generator_names_the_part_and_both_versions(
    change: str, other: Callable[[Change], Path], tmp_path: Path
) -> None:
    source, error = other(INVALID[change][0]), INVALID[change][1]
    for arguments in (
        ["sample", source, "--out", "x.png"],
        ["evaluate", source],
        ["export", source, "--out", "export"],
    ):
        result = run(*arguments)
        assert result.exit_code == 4, result.output
        assert re.search(rf"best\.safetensors: .*{BOTH}.*{error}", result.output), result.output
        assert f"Use ganctl {OTHER}" in result.output


def test_a_checkpoint_of_a_later_format_is_an_error_and_is_not_skipped(
    other: Callable[[Change], Path], tmp_path: Path
) -> None:
    source = other(lambda state: None)
    last = source / "checkpoints/last.safetensors"
    replace_in_header(last, b"ganctl-checkpoint-1", b"ganctl-checkpoint-2")
    resume = ["train", "--run-dir", source, "--resume", "auto", "--dry-run"]
    init = ["train", "--preset", "quick", "--init-from", last, "--dry-run"]
    for arguments in (["sample", last, "--out", "x.png"], ["inspect", source], resume, init):
        result = run(*arguments)
        assert result.exit_code == 4, result.output
        pattern = rf"last\.safetensors: .*{BOTH}.*'ganctl-checkpoint-2'.*'ganctl-checkpoint-1'"
        assert re.search(pattern, result.output), result.output


def test_evaluate_needs_data_source_if_the_stored_data_settings_are_invalid(
    other: Callable[[Change], Path], tmp_path: Path
) -> None:
    for change, error in (
        (rename_setting("data", "source", "dataset"), r"data\.source "),
        (set_values("data", source="cifar100"), r"data\.source = 'cifar100' "),
        (set_values("data", size=31), r"data\.size = 31 "),
    ):
        source = other(change)
        result = run("evaluate", source, "--num-images", 100)
        assert result.exit_code == 4, result.output
        assert re.search(rf"{BOTH}.*\b{error}.*--set data\.source=", result.output), result.output
        result = run("evaluate", source, "--num-images", 100, "--set", "data.source=mnist")
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("earlier", "found", "instead"),
    [
        (
            {"name": "folder", "root": "/images"},
            "data.name = 'folder' and data.root = '/images'",
            "data.source=/images",
        ),
        ({"name": "mnist", "root": None}, "data.name = 'mnist'", "data.source=mnist"),
        ({"name": "my.module:load", "root": None}, "data.name = 'my.module:load'", "data.source=my.module:load"),
    ],
)
def test_the_error_about_data_name_and_data_root_of_an_earlier_version_gives_data_source_in_their_place(
    earlier: dict[str, Any], found: str, instead: str, other: Callable[[Change], Path]
) -> None:
    source = other(lambda state: earlier_data(state, **earlier))
    message = rf"{BOTH}[^\n]*\b{re.escape(found)}[^\n]*"
    result = run("evaluate", source, "--num-images", 100)
    assert result.exit_code == 4, result.output
    assert re.search(rf"best\.safetensors: [^\n]*{message} --set {instead}\.", result.output), result.output
    resume = ["train", "--run-dir", source, "--resume", "auto", "--dry-run"]
    result = run(*resume)
    assert result.exit_code == 4, result.output
    assert re.search(rf"last\.safetensors: [^\n]*{message} {instead}\.[^\n]*--allow-changes", result.output), (
        result.output
    )
    assert len(result.output.splitlines()) == 1, result.output
    result = run(*resume, "--allow-changes", "--set", "data.source=mnist")
    assert result.exit_code == 0, result.output


def test_the_error_on_resume_names_every_setting_that_this_version_lacks(other: Callable[[Change], Path]) -> None:
    def change(state: dict[str, Any]) -> None:
        rename_setting("train", "duration", "length")(state)
        set_values("loss", name="newest")(state)
        set_values("optimizer", beta1=2.0)(state)
        state["config"]["schedule"] = {"kind": "wave"}

    source = other(change)
    resume = ["train", "--run-dir", source, "--resume", "auto", "--dry-run"]
    result = run(*resume)
    assert result.exit_code == 4
    assert re.search(rf"last\.safetensors: .*{BOTH}", result.output), result.output
    settings = ("train.length = ", "loss.name = 'newest'", "optimizer.beta1 = 2.0", "schedule.kind = 'wave'")
    for expected in (*settings, f"Use ganctl {OTHER}", "--allow-changes"):
        assert expected in result.output
    result = run(*resume, "--allow-changes")
    assert result.exit_code == 0, result.output
    for setting in settings:
        assert setting in result.output
    assert "loss.name, optimizer.beta1, train.duration" not in result.output


def test_resume_names_the_settings_that_a_run_of_another_version_lacks(other: Callable[[Change], Path]) -> None:
    source = other(lambda state: state["config"]["train"].pop("tf32"))
    result = run("train", "--run-dir", source, "--resume", "auto", "--dry-run")
    assert result.exit_code == 0, result.output
    assert re.search(rf"(?m)last\.safetensors: .*{BOTH}.*: train\.tf32$", result.output), result.output


def test_init_from_accepts_networks_of_another_version(other: Callable[[Change], Path]) -> None:
    arguments = ["train", "--preset", "conv", "--set", "model.base_channels=8", "--dry-run", "--init-from"]
    result = run(*arguments, other(IGNORED["renamed settings"]))
    assert result.exit_code == 0, result.output
    result = run(*arguments, other(lambda state: state["networks"].pop("generator")))
    assert result.exit_code == 4
    assert re.search(rf"{BOTH}.*'generator'", result.output), result.output


def test_a_checkpoint_without_a_version_is_read(small_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run/checkpoints/best.safetensors"
    write_checkpoint(path, read_checkpoint(small_run / "checkpoints/best.safetensors").state)
    replace_in_header(path, b'"ganctl_version":', b'"unknown_entry_":')
    assert run("sample", path, "--out", tmp_path / "x.png").exit_code == 0
    assert json.loads(run("inspect", path, "--json").output)["ganctl_version"] is None


def test_every_written_file_contains_the_version(small_run: Path, tmp_path: Path) -> None:
    assert (
        tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))["project"]["version"] == OURS
    )
    assert json.loads(run("inspect", small_run, "--json").output)["best"]["ganctl_version"] == OURS
    assert json.loads((small_run / "environment.json").read_text())["versions"]["ganctl"] == OURS
    assert (small_run / "config.toml").read_text("utf-8").startswith(f"# Written by ganctl {OURS}\n")
    folder = export(small_run, out=tmp_path / "export", formats=["torchscript", "onnx"])
    assert json.loads(run("inspect", folder, "--json").output)["ganctl_version"] == OURS
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "generator.onnx").metadata_props}
    assert metadata["ganctl_version"] == OURS
    extra: dict[str, Any] = {"ganctl_version": ""}
    torch.jit.load(str(folder / "generator.ts"), _extra_files=extra)
    assert extra["ganctl_version"] == OURS.encode()
    assert run("package", folder).exit_code == 0
    report = json.loads(run("inspect", tmp_path / "digits.mar", "--json").output)
    assert (report["ganctl_version"], report["config"]["handler"]["ganctl_version"]) == (OURS, OURS)
    assert run("sample", folder, "--out", tmp_path / "x.npz").exit_code == 0
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert archive.comment == f"ganctl {OURS}".encode()


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_run, out=tmp_path_factory.mktemp("exported") / "export", formats=["onnx"])


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"schema_version": 2}, r"schema_version\b.*\b2"),
        ({"z": {"dim": 64, "distribution": "uniform"}}, "uniform"),
        ({"class_names": {"0": "zero"}}, "class_names"),
        ({"files": ["generator.onnx"]}, "files"),
    ],
)
def test_the_error_for_an_invalid_manifest_names_the_entry_and_both_versions(
    change: dict[str, Any], entry: str, exported: Path
) -> None:
    path = exported / "manifest.json"
    before = path.read_text("utf-8")
    try:
        path.write_text(json.dumps(json.loads(before) | {"ganctl_version": OTHER} | change), "utf-8")
        for arguments in (["sample", exported, "--out", "x.png"], ["evaluate", exported], ["inspect", exported]):
            result = run(*arguments)
            assert result.exit_code == 4, result.output
            assert re.search(rf"manifest\.json: .*{BOTH}.*\b{entry}\b", result.output), result.output
        result = run("package", exported)
        assert result.exit_code == 4, result.output
        assert re.search(rf"manifest\.json: .*\b{entry}\b", result.output), result.output
        assert re.search(BOTH, result.output) or "files" in change
    finally:
        path.write_text(before, "utf-8")


def test_unknown_fields_of_a_manifest_are_ignored(exported: Path, tmp_path: Path) -> None:
    path = exported / "manifest.json"
    before = path.read_text("utf-8")
    try:
        more = {"ganctl_version": OTHER, "preset": "turbo", "watermark": {"kind": "none"}, "data": "cifar100"}
        path.write_text(json.dumps(json.loads(before) | more), "utf-8")
        assert run("sample", exported, "--out", tmp_path / "x.png").exit_code == 0
        assert run("package", exported, "--out", tmp_path).exit_code == 0
        assert json.loads(run("inspect", tmp_path / "digits.mar", "--json").output)["ganctl_version"] == OTHER
        result = run("evaluate", exported, "--num-images", 100)
        assert result.exit_code == 4, result.output
        assert re.search(rf"{BOTH}.*\bdata\.source = 'cifar100'", result.output), result.output
        assert run("evaluate", exported, "--num-images", 100, "--set", "data.source=mnist").exit_code == 0
    finally:
        path.write_text(before, "utf-8")


def test_the_error_for_a_config_file_of_another_version_names_the_setting_and_both_versions(
    small_run: Path, tmp_path: Path
) -> None:
    text = (small_run / "config.toml").read_text("utf-8").replace(OURS, OTHER, 1).replace("\nduration", "\nlength", 1)
    (tmp_path / "config.toml").write_text(text, "utf-8")
    result = run("train", "--config", tmp_path / "config.toml", "--dry-run")
    assert result.exit_code == 3
    assert re.search(rf"config\.toml: .*{BOTH}.*'train\.length'", result.output), result.output
