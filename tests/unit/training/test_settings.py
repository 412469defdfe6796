"""Settings: who wins, where a value came from, and all faults in one message."""

import json
from pathlib import Path

import pytest
import tomli_w

from ganctl.training.config.resolve import preset_names, preset_text, resolve
from ganctl.training.config.schema import DESCRIPTIONS, Config, Duration
from ganctl.training.errors import ConfigError


def faults(**kwargs: object) -> str:
    with pytest.raises(ConfigError) as raised:
        resolve(environment={}, **kwargs)  # type: ignore[arg-type]
    assert raised.value.exit_code == 3
    return str(raised.value)


def test_flags_win_over_environment_over_file_over_preset(tmp_path: Path) -> None:
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


def test_each_layer_wins_over_the_one_below_it(tmp_path: Path) -> None:
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


def test_the_preset_is_chosen_by_the_same_order_and_its_source_is_told(tmp_path: Path) -> None:
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
    assert "GANCTL_PRESET: unknown preset 'convv'" in faults_of({"GANCTL_PRESET": "convv"})


def test_a_setting_may_be_unset_again_and_an_empty_variable_sets_nothing() -> None:
    environment = {"GANCTL_EARLY_STOPPING__STOPPING_THRESHOLD": "5.0", "GANCTL_TRAIN__INIT_FROM": ""}
    config, _ = resolve(environment=environment)
    assert (config.early_stopping.stopping_threshold, config.train.init_from) == (5.0, None)
    config, _ = resolve(environment=environment, assignments=["early_stopping.stopping_threshold=unset"])
    assert config.early_stopping.stopping_threshold is None


def test_texts_may_look_like_numbers_and_all_that_a_setting_may_be_is_told() -> None:
    config, _ = resolve(environment={"GANCTL_LOG__NAME": "2024"}, assignments=["log.root=7"])
    assert (config.log.name, config.log.root) == ("2024", Path("7").absolute())
    told = faults(assignments=["train.batch_size=Auto", "train.lr=1"])
    assert "valid integer; or Input should be 'auto'. Did you mean auto?" in told
    assert "unknown setting 'train.lr'. Did you mean optimizer.lr?" in told


def test_all_faults_of_all_sources_are_told_at_once_with_suggestions(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[optimiser]\nlr = 1\n")
    told = faults(
        preset="convv",
        config_file=file,
        assignments=[
            "train.bach_size=3",
            "loss.name=relativstic",
            "train.ema_decay=2",
            "optimizer.lr=-1",
            "model.latent_dim=0",
        ],
    )
    for expected in (
        "unknown preset 'convv'",
        "Did you mean conv?",
        "unknown setting 'optimiser.lr'. Did you mean optimizer.lr",
        "unknown setting 'train.bach_size'. Did you mean train.batch_size",
        "loss.name = 'relativstic'",
        "Did you mean relativistic?",
        "train.ema_decay = 2",
        "optimizer.lr = -1",
        "model.latent_dim = 0",
    ):
        assert expected in told


def test_a_config_that_is_absent_or_no_toml_is_a_fault(tmp_path: Path) -> None:
    assert "No such file" in faults(config_file=tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("train = [")
    assert "not TOML" in faults(config_file=tmp_path / "bad.toml")
    assert "expected section.key=value" in faults(assignments=["train.seed"])


def test_misspelt_variables_and_loose_types_are_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"GANCTL_TRAIN_SEED: .* Did you mean GANCTL_TRAIN__SEED"):
        resolve(environment={"GANCTL_TRAIN_SEED": "5"})
    assert "unknown setting 'trian.seed'" in faults_of({"GANCTL_TRIAN__SEED": "5"})
    assert "train.batch_size = True" in faults(assignments=["train.batch_size=true"])
    assert "model.latent_dim = '7'" in faults(assignments=["model.latent_dim='7'"])
    (tmp_path / "bad.toml").write_text("preset = 5")
    assert "expected the name of a preset" in faults(config_file=tmp_path / "bad.toml")


def faults_of(environment: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as raised:
        resolve(environment=environment)
    return str(raised.value)


def test_a_preset_named_in_a_config_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('preset = "lightning-basic-gan"\n')
    assert resolve(config_file=file, environment={})[0].model.generator == "mlp"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_repeats_itself_from_its_resolved_settings(name: str, tmp_path: Path) -> None:
    config, _ = resolve(preset=name, environment={})
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    assert resolve(config_file=tmp_path / "config.toml", environment={})[0] == config
    assert preset_text(name).startswith(f"# {name}")


def test_every_setting_says_what_it_means() -> None:
    assert DESCRIPTIONS.keys() == Config().flat().keys()
    assert all(DESCRIPTIONS.values())


def test_a_variable_may_set_any_setting() -> None:
    values = resolve(environment={})[0].flat()
    text = {name: "unset" if value is None else json.dumps(value) for name, value in values.items()}
    text |= {"data.root": "/d", "data.num_workers": "3", "optimizer.lr_discriminator": "0.1", "train.init_from": "/i"}
    text |= {
        "checkpoint.every": "9 images",
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


@pytest.mark.parametrize(
    ("text", "images"),
    [("120s", 12_000), ("2m", 12_000), ("2 epochs", 2_000), ("1 epoch", 1_000), ("500 images", 500), (500, 500)],
)
def test_lengths_become_images(text: object, images: int) -> None:
    assert Duration.parse(text).images(1_000, images_per_second=100) == images


@pytest.mark.parametrize("text", ["", "0s", "-3s", "3 days", "s"])
def test_no_length_is_told_with_examples(text: str) -> None:
    assert "'10 epochs'" in faults(assignments=[f"train.duration='{text}'"])
