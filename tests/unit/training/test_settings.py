"""Settings: the precedence of their sources, the source of each value, and one error that lists all problems."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from ganctl.training.config.duration import Duration
from ganctl.training.config.resolve import preset_names, preset_text, resolve
from ganctl.training.config.schema import DESCRIPTIONS, Config, DataSettings
from ganctl.training.errors import ConfigError


def error_message(environment: dict[str, str] | None = None, **arguments: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        resolve(environment=environment or {}, **arguments)
    assert raised.value.exit_code == 3
    return str(raised.value)


def test_a_flag_overrides_the_environment_the_config_file_and_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[train]\nseed = 1\nbatch_size = 1\nema_decay = 0.1\n[optimizer]\nlr = 0.1\n")
    environment = {"GANCTL_TRAIN__SEED": "2", "GANCTL_TRAIN__BATCH_SIZE": "2", "UNRELATED__X": "1"}
    config, sources = resolve(
        config_file=file,
        environment=environment,
        assignments=["train.seed=3"],
        flags={"train.seed": ("--seed", 4)},
    )
    assert (config.train.seed, config.train.batch_size, config.train.ema_decay, config.optimizer.beta2) == (
        4,
        2,
        0.1,
        0.99,
    )
    assert sources["train.seed"] == "--seed"
    assert sources["train.batch_size"] == "GANCTL_TRAIN__BATCH_SIZE"
    assert sources["train.ema_decay"] == str(file)
    assert sources["optimizer.beta2"] == "preset conv"
    assert sources["log.every"] == "default"


def test_each_source_of_settings_overrides_the_one_below_it(tmp_path: Path) -> None:
    """preset < file < environment < --set < flag, each pair on a setting of its own."""
    file = tmp_path / "my.toml"
    file.write_text("[train]\nema_decay = 0.1\nseed = 1\n[loss]\nr1 = 1.0\n")
    config, _ = resolve(
        preset="conv",
        config_file=file,
        environment={"GANCTL_TRAIN__SEED": "2", "GANCTL_LOSS__R2": "2.0", "GANCTL_LOG__EVERY": "2"},
        assignments=["loss.r2=3.0", "log.every=3"],
        flags={"log.every": ("--log-every", 4)},
    )
    assert (config.train.ema_decay, config.train.seed, config.loss.r1, config.loss.r2, config.log.every) == (
        0.1,
        2,
        1,
        3,
        4,
    )


def test_the_preset_follows_the_same_precedence_and_its_source_is_named(tmp_path: Path) -> None:
    file, variable = tmp_path / "my.toml", {"GANCTL_PRESET": "lightning-basic-gan"}
    file.write_text('preset = "conv"\n')
    for arguments, preset, source in (
        ({"environment": {}}, "conv", "default"),
        ({"environment": {}, "config_file": file}, "conv", str(file)),
        ({"environment": variable, "config_file": file}, "lightning-basic-gan", "GANCTL_PRESET"),
        ({"environment": variable, "config_file": file, "preset": "conv"}, "conv", "--preset"),
    ):
        config, sources = resolve(**arguments)
        assert (config.preset, sources["preset"]) == (preset, source)
    assert re.search("GANCTL_PRESET: .*'convv'", error_message({"GANCTL_PRESET": "convv"}))


def test_a_setting_may_be_unset_again_and_an_empty_variable_sets_nothing() -> None:
    environment = {"GANCTL_EARLY_STOPPING__STOPPING_THRESHOLD": "5.0", "GANCTL_TRAIN__INIT_FROM": ""}
    config, _ = resolve(environment=environment)
    assert (config.early_stopping.stopping_threshold, config.train.init_from) == (5.0, None)
    config, _ = resolve(environment=environment, assignments=["early_stopping.stopping_threshold=unset"])
    assert config.early_stopping.stopping_threshold is None


def test_a_string_setting_may_look_like_a_number() -> None:
    config, _ = resolve(environment={"GANCTL_LOG__NAME": "2024"}, assignments=["log.root=7"])
    assert (config.log.name, config.log.root) == ("2024", Path("7").absolute())


def test_the_error_of_a_setting_with_alternatives_names_each_of_them() -> None:
    message = error_message(assignments=["train.batch_size=Auto"])
    assert re.search(r"train\.batch_size = 'Auto': .*\binteger\b.*'auto'", message)


def test_one_error_lists_the_problems_of_all_sources_with_suggestions(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[optimiser]\nlr = 1\n")
    message = error_message(
        preset="convv",
        config_file=file,
        assignments=[
            "train.bach_size=3",
            "train.lr=1",
            "loss.name=relativstic",
            "train.ema_decay=2",
            "optimizer.lr=-1",
            "model.latent_dim=0",
        ],
    )
    for line in (
        "--preset: .*'convv'.* Did you mean conv",
        f"{file}: .*'optimiser.lr'.* Did you mean optimizer.lr",
        "--set: .*'train.bach_size'.* Did you mean train.batch_size",
        "--set: .*'train.lr'.* Did you mean optimizer.lr",
        "--set: loss.name = 'relativstic': .* Did you mean relativistic",
        "--set: train.ema_decay = 2: ",
        "--set: optimizer.lr = -1: ",
        "--set: model.latent_dim = 0: ",
    ):
        assert re.search(line, message), message


def test_a_missing_or_invalid_config_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    absent, invalid = tmp_path / "absent.toml", tmp_path / "invalid.toml"
    assert f"--config {absent}: No such file" in error_message(config_file=absent)
    invalid.write_text("train = [")
    assert re.search(rf"--config {invalid}: .*\bTOML\b", error_message(config_file=invalid))
    invalid.write_text("preset = 5")
    assert re.search(rf"{invalid}: .*\bpreset '5'.*\bconv\b", error_message(config_file=invalid))


def test_an_assignment_without_a_value_is_an_error_with_the_expected_form() -> None:
    assert re.search(r"--set train\.seed: .*\bsection\.key=value\b", error_message(assignments=["train.seed"]))


def test_misspelled_variables_and_values_of_a_wrong_type_are_errors() -> None:
    message = error_message({"GANCTL_TRAIN_SEED": "5"})
    assert re.search(r"GANCTL_TRAIN_SEED: .*\bGANCTL_TRAIN__SEED\b", message)
    assert re.search(r"GANCTL_TRIAN__SEED: .*'trian\.seed'", error_message({"GANCTL_TRIAN__SEED": "5"}))
    assert "train.batch_size = True: " in error_message(assignments=["train.batch_size=true"])
    assert "model.latent_dim = '7': " in error_message(assignments=["model.latent_dim='7'"])


def test_a_preset_named_in_a_config_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('preset = "lightning-basic-gan"\n')
    assert resolve(config_file=file, environment={})[0].model.generator == "mlp"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_equals_its_resolved_settings_read_back(name: str, tmp_path: Path) -> None:
    config, _ = resolve(preset=name, environment={})
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    assert resolve(config_file=tmp_path / "config.toml", environment={})[0] == config
    assert preset_text(name).startswith(f"# {name}")


def test_every_setting_has_a_description() -> None:
    assert DESCRIPTIONS.keys() == Config().flat().keys()
    assert all(DESCRIPTIONS.values())


def test_a_variable_may_set_any_setting() -> None:
    values = resolve(environment={})[0].flat()
    text = {name: "unset" if value is None else json.dumps(value) for name, value in values.items()}
    text |= {"data.source": "/d", "data.license": "CC0-1.0", "data.attribution": "A. Author", "data.num_workers": "3"}
    text |= {"optimizer.lr_discriminator": "0.1", "train.init_from": "/i"}
    text |= {
        "checkpoint.every": "9 images",
        "checkpoint.monitor_threshold": "1.5",
        "early_stopping.stopping_threshold": "5",
        "log.root": "/l",
        "log.name": "n",
    }
    text |= {"model.options": "{ gain = 2 }", "model.generator_base_channels": "16"}
    variables = {f"GANCTL_{name.upper().replace('.', '__')}": value for name, value in text.items()}
    assert "unset" not in variables.values()
    config, sources = resolve(environment=variables)
    assert {source for name, source in sources.items() if name != "preset"} == set(variables)
    assert (config.model.options, config.log.name, config.early_stopping.stopping_threshold) == ({"gain": 2}, "n", 5.0)


def test_a_path_in_data_source_becomes_absolute_and_a_name_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("images", "kmnist", "a.zip"):
        (tmp_path / name).mkdir()
    for text, source, is_path in (
        ("images", str(tmp_path / "images"), True),
        ("a.zip", str(tmp_path / "a.zip"), True),
        ("absent/images", str(tmp_path / "absent/images"), True),
        ("./absent", str(tmp_path / "absent"), True),
        ("~/images", "/home/me/images", True),
        ("kmnist", "kmnist", False),  # a folder of this name needs ./kmnist
        ("my.module:load", "my.module:load", False),
        ("absent", "absent", False),
    ):
        settings = DataSettings(source=text)
        assert (settings.source, settings.is_path) == (source, is_path)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("mnist", "mnist"), ("my.module:load", "my.module.load"), ("/a/emoji", "emoji"), ("/a/emoji.tar.gz", "emoji"),
        ("/a/emoji.zip", "emoji"), ("/a/b.c.npz", "b.c"), ("/a/große Bilder (1)", "große-Bilder-1-"), ("/", "images"),
    ],
)  # fmt: skip
def test_the_short_name_of_a_data_set_can_name_a_run(source: str, name: str) -> None:
    settings = DataSettings(source=source)
    assert settings.name == name
    assert Config.model_validate({"log": {"name": settings.name}}).log.name == name


@pytest.mark.parametrize("source", ["~nosuchuser/images", "/a\0b", "", " ", "absent"])
def test_an_invalid_data_source_is_one_error_that_names_the_setting(source: str) -> None:
    message = error_message(flags={"data.source": ("DATA", source)})
    (line,) = [line for line in message.splitlines() if line.startswith("  - ")]
    assert line.startswith(f"  - DATA: data.source = {source!r}: ")


@pytest.mark.parametrize(
    "assignment",
    [
        "data.size=30", "data.size=12", "data.size=132", "data.size=own", "data.channels=2", "data.fit=stretch",
        "data.balance=1.5", "data.balance=-0.1",
    ],
)  # fmt: skip
def test_a_data_setting_out_of_range_is_refused(assignment: str) -> None:
    name, _, value = assignment.partition("=")
    assert re.search(rf"--set: {re.escape(name)} = '?{re.escape(value)}'?: ", error_message(assignments=[assignment]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"data.name": "folder", "data.root": "/x"}, "data.source=/x"),
        ({"data.root": "/x"}, "data.source=/x"),
        ({"data.name": "kmnist"}, "data.source=kmnist"),
        ({"data.name": "kmnist", "data.root": "unset"}, "data.source=kmnist"),
        ({"data.name": "my.module:load"}, "data.source=my.module:load"),
        ({"data.name": "kmnist", "data.root": "/x"}, r"data.source=kmnist\b.*\bPATH_DATASETS=/x"),
    ],
)
def test_the_error_about_data_name_and_data_root_gives_data_source_in_their_place(
    old: dict[str, str], new: str, tmp_path: Path
) -> None:
    keys = {name.partition(".")[2]: value for name, value in old.items()}
    (tmp_path / "c.toml").write_text(tomli_w.dumps({"data": keys}))
    sources: dict[str, dict[str, Any]] = {
        str(tmp_path / "c.toml"): {"config_file": tmp_path / "c.toml"},
        "--set": {"assignments": [f"{name}={value}" for name, value in old.items()]},
        "GANCTL_DATA__": {"environment": {f"GANCTL_{n.upper().replace('.', '__')}": value for n, value in old.items()}},
    }
    for source, arguments in sources.items():
        message = error_message(**arguments)
        (line,) = [line for line in message.splitlines() if line.startswith("  - ")]
        assert line.startswith(f"  - {source}")
        for name, value in old.items():
            assert value == "unset" or f"{name} = {value!r}" in line
        assert re.search(rf"\b{new}\b", line)


@pytest.mark.parametrize(
    ("text", "images"),
    [("120s", 12_000), ("2m", 12_000), ("2 epochs", 2_000), ("1 epoch", 1_000), ("500 images", 500), (500, 500)],
)
def test_durations_are_converted_to_images(text: object, images: int) -> None:
    assert Duration.parse(text).images(1_000, images_per_second=100) == images


@pytest.mark.parametrize("text", ["", "0s", "-3s", "3 days", "s"])
def test_the_error_of_an_invalid_duration_names_the_setting_and_an_example(text: str) -> None:
    message = error_message(assignments=[f"train.duration='{text}'"])
    assert re.search(rf"train\.duration = '{text}': .*'10 epochs'", message)
