"""The preset `auto`: it chooses settings for the images, the device and the duration, once, and gives its reasons."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ganctl.main import cli
from ganctl.training.checkpoint.format import read_checkpoint
from ganctl.training.config.auto import OTHER_IMAGES, Facts, recommend
from ganctl.training.config.duration import Duration
from ganctl.training.config.resolve import preset_names, preset_values, resolve
from ganctl.training.config.schema import Config
from ganctl.training.errors import ConfigError
from ganctl.training.loop.recipe import configure
from ganctl.training.loop.session import Session
from tests.any_images import disks, save_folder
from tests.conftest import Ganctl, one_object
from tests.unit.training.folders import fill, fill_flat

pytestmark = pytest.mark.usefixtures("data_cache")

MNIST = Facts(images=55_000, size=28, channels=1, classes=10)
CUDA = replace(MNIST, device="cuda")
FEW = ("--set", "train.precision=fp32", "--set", "data.num_workers=0", "--max-steps", "1", "--dry-run")


def lasting(text: str, facts: Facts = MNIST) -> Facts:
    return replace(facts, duration=Duration.parse(text))


def recipe(preset: str) -> dict[str, Any]:
    """Returns the values of a preset, without those of the data."""
    return {name: value for name, value in preset_values(preset).items() if not name.startswith("data.")}


def train(*words: object) -> Result:
    return CliRunner().invoke(cli, ["train", *map(str, words)])


@pytest.mark.parametrize(
    ("facts", "preset"),
    [
        (MNIST, "conv"),
        (lasting("120s"), "quick"),
        (lasting("3m"), "quick"),
        (lasting("181s"), "conv"),
        (lasting("3 epochs"), "quick"),
        (lasting("10 epochs"), "conv"),
        (lasting("1600 images"), "quick"),
        (replace(MNIST, size=32), "conv"),
        (replace(MNIST, size=36), OTHER_IMAGES),
        (replace(MNIST, channels=3), OTHER_IMAGES),
        (lasting("120s", replace(MNIST, channels=4)), OTHER_IMAGES),
        (CUDA, "gpu"),
        (lasting("120s", CUDA), "gpu"),
        (replace(CUDA, channels=3), OTHER_IMAGES),
        (replace(CUDA, size=64), OTHER_IMAGES),
    ],
)
def test_many_labeled_images_get_a_preset_unchanged_by_their_kind_the_device_and_the_duration(
    facts: Facts, preset: str
) -> None:
    recommendation = recommend(facts)
    assert recommendation.values == recipe(preset)
    (reason,) = recommendation.reasons.values()
    assert f"settings of {preset}: " in reason


@pytest.mark.parametrize(
    ("facts", "changes"),
    [
        (replace(MNIST, images=10_000), {}),
        (replace(MNIST, images=9_999), {"augment.probability": "adaptive"}),
        (replace(MNIST, classes=0), {"model.conditional": False}),
        (replace(MNIST, classes=1), {"model.conditional": False}),
        (replace(MNIST, classes=2), {}),
        (replace(MNIST, images=128), {"augment.probability": "adaptive"}),
        (replace(MNIST, images=127), {"augment.probability": "adaptive", "train.batch_size": 64}),
        (replace(MNIST, images=63), {"augment.probability": "adaptive", "train.batch_size": 32}),
        (replace(MNIST, images=2), {"augment.probability": "adaptive", "train.batch_size": 2}),
        (
            replace(MNIST, images=40, classes=0),
            {"augment.probability": "adaptive", "train.batch_size": 32, "model.conditional": False},
        ),
    ],
)
def test_few_images_and_missing_labels_change_the_settings_that_they_concern_each_for_a_reason(
    facts: Facts, changes: dict[str, Any]
) -> None:
    recommendation = recommend(facts)
    assert recommendation.values == recipe("conv") | changes
    assert recommendation.reasons.keys() == {"preset"} | changes.keys()
    for name, value in changes.items():
        assert recommendation.reasons[name].startswith(f"{name}={str(value).lower()}: ")


@pytest.mark.parametrize(
    ("images", "batch_size"),
    [(500_000, 4096), (40_960, 4096), (40_959, 2048), (10_000, 512), (1_500, 128), (640, 64), (300, 64), (40, 32)],
)
def test_on_cuda_the_batch_is_about_a_tenth_of_the_images_and_a_run_sees_no_fewer_images_than_of_mnist(
    images: int, batch_size: int
) -> None:
    values = recommend(replace(CUDA, images=images)).values
    assert values["train.batch_size"] == batch_size
    seen = Duration.parse(values["train.duration"]).images(images)
    assert seen >= 70 * 55_000
    assert Duration.parse(values["evaluation.every"]).images(images) == round(seen / 14)


def test_on_cuda_the_rates_of_a_smaller_batch_lie_between_those_of_a_batch_of_64_and_of_gpu() -> None:
    slow, fast = {"optimizer.lr": 2e-3, "train.ema_decay": 0.9995}, preset_values("gpu")
    batches = [recommend(replace(CUDA, images=n)).values for n in (40, 640, 1_500, 10_000, 20_480, 55_000)]
    for name in ("optimizer.lr", "train.ema_decay"):
        rates = [values[name] for values in batches]
        assert rates[0] == rates[1] == pytest.approx(slow[name])
        assert rates[-1] == fast[name]
        assert sorted(rates, reverse=name == "train.ema_decay") == rates
        assert len(set(rates[1:])) == 5


@pytest.mark.parametrize("facts", [MNIST, CUDA, replace(MNIST, channels=4, images=30, classes=0, size=128)])
def test_every_recipe_is_valid(facts: Facts) -> None:
    values = recommend(facts).values
    _, sources = resolve(environment={}, auto=lambda config, sources: values)
    assert {name for name, source in sources.items() if source == "preset auto"} == values.keys()


def test_the_networks_of_an_earlier_run_are_kept_and_labels_are_used_as_the_images_have_them() -> None:
    networks = {"generator": "mlp", "discriminator": "mlp", "latent_dim": 7, "conditional": False}
    recommendation = recommend(replace(MNIST, networks=networks))
    kept = {f"model.{key}": value for key, value in networks.items() if key != "conditional"}
    assert recommendation.values == recipe("conv") | kept
    assert "--init-from" in recommendation.reasons["model.generator"]


@pytest.mark.parametrize(("facts", "preset"), [(MNIST, "conv"), (CUDA, "gpu"), (lasting("60s"), "quick")])
def test_networks_of_an_earlier_run_get_the_settings_that_were_chosen_for_them(facts: Facts, preset: str) -> None:
    networks = {"generator": "conv", "base_channels": 8}
    assert recommend(replace(facts, networks=networks)).values == recipe(preset) | {
        "model.generator": "conv", "model.base_channels": 8,
    }  # fmt: skip
    color = recommend(replace(facts, channels=3, networks=networks)).values
    assert color["optimizer.lr"] in {preset_values(name)["optimizer.lr"] for name in ("quick", "conv", "gpu")}


def test_a_flag_overrides_auto_and_its_reason_and_auto_overrides_the_defaults() -> None:
    session = Session(assignments=["optimizer.lr=0.5"], flags={"train.batch_size": ("--batch-size", 8)})
    assert (session.config.optimizer.lr, session.sources["optimizer.lr"]) == (0.5, "--set")
    assert (session.config.train.batch_size, session.sources["train.batch_size"]) == (8, "--batch-size")
    assert (session.config.model.latent_dim, session.sources["model.latent_dim"]) == (128, "preset auto")
    assert Config().model.latent_dim == 64
    assert (session.config.preset, session.sources["preset"]) == ("auto", "default")


def test_mnist_on_a_cpu_gets_exactly_the_settings_of_conv() -> None:
    assert Session(flags={"train.device": ("--device", "cpu")}).config.flat() == configure(
        "conv", {"train.device": "cpu"}
    ).flat()  # fmt: skip


def test_print_config_shows_the_settings_for_a_folder_of_color_images_and_the_reasons_on_stderr(
    tmp_path: Path,
) -> None:
    folder = save_folder(tmp_path / "images", disks(60, 40)[..., :3])
    done = train(folder, "--print-config", "--json", "--set", "data.num_workers=0", "--device", "cpu")
    assert done.exit_code == 0, done.output
    record = one_object(done.stdout)
    assert record["preset"] == {"value": "auto", "source": "default"}
    preset = configure(OTHER_IMAGES).flat()
    expected = {name: preset[name] for name in recipe(OTHER_IMAGES)} | {"augment.probability": "adaptive"}
    for name, value in (expected | {"train.batch_size": 32, "model.conditional": False}).items():
        assert record[name] == {"value": value, "source": "preset auto"}, name
    for text in (
        f"settings of {OTHER_IMAGES}: color images of 40 pixels, on a CPU", "augment.probability=adaptive: 48 training",
        "model.conditional=false: the images have no labels", "train.batch_size=32: there are 48 training",
    ):  # fmt: skip
        assert f"\nauto: {text}" in "\n" + done.stderr, done.stderr

    given = ("--set", "augment.probability=0.5", "--batch-size", 8, "--set", "model.conditional=true")
    done = train(folder, "--print-config", "--set", "data.num_workers=0", "--device", "cpu", *given)
    assert done.exit_code == 0, done.output
    assert re.findall(r"^auto: (\S+)", done.stderr, re.MULTILINE) == ["settings"], "only what is still in use"


def test_the_printed_settings_are_a_config_file_that_decides_everything(tmp_path: Path) -> None:
    folder, other = fill_flat(tmp_path / "a", images=30), fill(tmp_path / "b", images=30, mode="L")
    printed = train(folder, "--print-config", "--set", "data.num_workers=0").stdout
    (tmp_path / "c.toml").write_text(printed)
    values = tomllib.loads(printed)
    for preset in preset_names():  # a setting that a preset sets may not be left to the decision for other images
        for name in preset_values(preset):
            section, key = name.split(".")
            assert key in values[section], name
    done = train(other, "--print-config", "--json", "--config", tmp_path / "c.toml")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert "preset auto" not in {each["source"] for each in record.values()}
    assert "auto:" not in done.stderr
    assert record["model.conditional"]["value"] is False


def test_training_prints_and_logs_the_reasons_and_a_resumed_run_does_not_decide_anew(
    ganctl: Ganctl, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "images", images=30, mode="L")
    small = [f"data.source={folder}", "data.num_workers=0", "model.base_channels=8", "evaluation.num_images=100"]
    small += ["log.tensorboard=false", "train.precision=fp32", "train.duration=1200 images"]
    words = [word for setting in small for word in ("--set", setting)]
    done = ganctl("train", *words, "--run-dir", "run", "--max-steps", 2, "--json")
    assert done.returncode == 0, done.stderr
    one_object(done.stdout)
    settings_of = "auto: settings of quick: gray images of 28 pixels, on a CPU, for 1200 images"
    for text in (settings_of, "auto: augment.probability=adaptive: ", "auto: train.batch_size=32: "):
        assert done.stderr.count(text) == (tmp_path / "run/log.txt").read_text().count(text) == 1, done.stderr
    stored = read_checkpoint(tmp_path / "run/checkpoints/last.safetensors").state["config"]
    assert (stored["preset"], stored["train"]["batch_size"], stored["model"]["latent_dim"]) == ("auto", 32, 64)
    settings = tomllib.loads((tmp_path / "run/config.toml").read_text())
    assert (settings["preset"], settings["augment"]["probability"]) == ("auto", "adaptive")

    # a duration for which auto would choose another recipe
    again = ("train", "--run-dir", "run", "--resume", "auto", "--set", "train.duration=20m", "--max-steps", 3)
    done = ganctl(*again)
    assert done.returncode == 0, done.stderr
    assert "auto:" not in done.stderr
    resumed = read_checkpoint(tmp_path / "run/checkpoints/last.safetensors").state["config"]
    stored["train"]["duration"] = "1200s"
    assert resumed == stored


def test_init_from_keeps_the_networks_of_a_run_with_other_settings(small_run: Path, tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "disks", disks(30, 40), labeled=True)
    settings = ["data.num_workers=0", f"data.source={folder}", f"train.init_from={small_run}"]
    config = Session(assignments=settings).config
    assert (config.model.base_channels, config.model.conditional) == (8, True)
    assert any("--init-from" in reason for reason in Session(assignments=settings).reasons)
    wider = Session(assignments=[*settings, "model.base_channels=16"]).config
    assert wider.model.base_channels == 16


def test_a_resumed_run_of_another_preset_keeps_it(small_run: Path) -> None:
    session = Session(run_dir=small_run, resume="auto", dry_run=True)
    assert (session.config.preset, session.reasons) == ("conv", ())
    with pytest.raises(ConfigError, match=r"model\.base_channels = 32: the run has 8"):
        Session(preset="auto", run_dir=small_run, resume="auto", dry_run=True)


def test_configure_decides_for_the_data_set_as_the_command_does(tmp_path: Path) -> None:
    folder = str(fill_flat(tmp_path / "images", images=30))
    config = configure("auto", {"data.source": folder, "data.num_workers": 0})
    assert configure(None, {"data.source": folder, "data.num_workers": 0}) == config
    assert (config.preset, config.augment.probability, config.train.batch_size) == ("auto", "adaptive", 16)
    assert configure("conv", {"data.source": folder}).train.batch_size == 128, "it reads no data"


def test_a_data_set_that_cannot_be_read_is_an_error_with_exit_code_4_also_when_settings_are_printed(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    for words in (["--print-config"], ["--dry-run"]):
        done = train(tmp_path / "empty", *words)
        assert done.exit_code == 4, done.output
    assert train(tmp_path / "empty", "--print-config", "--preset", "conv").exit_code == 0
