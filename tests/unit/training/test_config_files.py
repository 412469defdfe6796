"""Configuration files: printed settings are read back unchanged, and an error names the file that cannot be read."""

import codecs
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganctl.main import cli
from ganctl.training.checkpoint.run_dir import write_settings
from ganctl.training.config.resolve import config_toml, preset_names, resolve
from ganctl.training.config.schema import DESCRIPTIONS, Config
from ganctl.training.errors import ConfigError
from ganctl.training.loop.recipe import configure
from tests.waiting import PATIENCE


def print_config(*words: str) -> str:
    """Returns the output of `train --print-config WORDS…`."""
    done = CliRunner().invoke(cli, ["train", "--print-config", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def values(*words: str) -> dict[str, object]:
    """Returns the values of all settings for these arguments of `train`."""
    return {name: record["value"] for name, record in json.loads(print_config("--json", *words)).items()}


SETTINGS: list[tuple[str, ...]] = [
    (),
    ("data.source=/a b/Téléchargements/日本 & co #1",),
    ("data.source=/quote\"and'backslash\\n\\",),
    ("data.source=/line\nbreak\ttab",),
    ("checkpoint.monitor_threshold=1.5", "early_stopping.stopping_threshold=5", "log.name=2024"),
    ("checkpoint.filename={step:08d}-{fd:.2f} #1",),
    ('model.options={ gain = 2, "a b" = 0.5, "é\\"=\\n" = "日本 \\\\ \'", yes = true, "" = "unset" }',),
    ("train.duration=7 epochs", "optimizer.lr=1e-9", "train.seed=9007199254740991", "data.on_device=false"),
    ("log.name=unset", "data.license=unset", "model.options={}"),
]


@pytest.mark.parametrize("assignments", SETTINGS)
def test_printed_settings_are_read_back_unchanged(assignments: tuple[str, ...], tmp_path: Path) -> None:
    words = ["--preset", "conv", *(word for assignment in assignments for word in ("--set", assignment))]
    file = tmp_path / "c.toml"
    file.write_text(print_config(*words), "utf-8")
    assert values("--config", str(file)) == values(*words)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_printed_and_read_back_also_with_all_optional_settings_unset(name: str, tmp_path: Path) -> None:
    optional = [key for key, value in Config().flat().items() if value is None]
    assert optional
    for words in ([], [word for key in optional for word in ("--set", f"{key}=unset")]):
        file = tmp_path / "c.toml"
        file.write_text(print_config("--preset", name, *words), "utf-8")
        assert values("--config", str(file)) == values("--preset", name, *words)


def test_each_printed_value_has_its_source_and_its_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANCTL_TRAIN__SEED", "3")
    lines = print_config(
        "--preset", "quick", "--epochs", "3", "--set", "log.every=7", "--set", "model.generator_base_channels=unset"
    ).splitlines()
    for name, text, source in (
        ("train.seed", "seed = 3", "GANCTL_TRAIN__SEED"),
        ("train.duration", 'duration = "3 epochs"', "--epochs"),
        ("log.every", "every = 7", "--set"),
        ("data.source", 'source = "mnist"', "preset quick"),
        ("data.license", "# license = unset", "default"),
        ("model.generator_base_channels", 'generator_base_channels = "unset"', "--set"),
        ("loss.name", 'name = "relativistic"', "preset quick"),
    ):
        (line,) = [line for line in lines if line.startswith(text) and line.endswith(DESCRIPTIONS[name])]
        assert f"# {source} " in line


def test_the_file_in_a_run_folder_gives_the_settings_of_the_run(tmp_path: Path) -> None:
    config = configure(
        "quick", {"model.generator_base_channels": None, "data.source": "/é\n#", "model.options": {"a": "\\"}}
    )
    write_settings(tmp_path, config, ranks=1)
    assert resolve(config_file=tmp_path / "config.toml", environment={})[0] == config


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=TEXT.map(lambda text: f"/{text}"),
    license_=st.none() | TEXT,
    options=st.dictionaries(TEXT, TEXT | st.booleans() | NUMBERS),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    source=TEXT,
)
def test_any_texts_and_numbers_are_written_and_read_back(
    path: str, license_: str | None, options: dict[str, object], rate: float, source: str, tmp_path: Path
) -> None:
    config = configure(
        "conv", {"data.source": path, "data.license": license_, "model.options": options, "optimizer.lr": rate}
    )
    file = tmp_path / "c.toml"
    file.write_text(config_toml(config, dict.fromkeys(["preset", *config.flat()], source)), "utf-8", newline="")
    assert resolve(config_file=file, environment={})[0] == config


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(name, marks=pytest.mark.soak) for name in ("utf-8", "latin-1", "shift_jis"))]
)
def test_printed_settings_are_read_back_for_any_output_encoding(encoding: str, tmp_path: Path) -> None:
    words = ["--preset", "conv", "--set", "data.source=/é/日本/😀", "--set", 'model.options={"ü" = "γ"}']
    file = tmp_path / "c.toml"
    with file.open("wb") as output:
        subprocess.run(
            [sys.executable, "-m", "ganctl", "train", "--print-config", *words],
            env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin"}, stdout=output, check=True, timeout=PATIENCE,
        )  # fmt: skip
    assert values("--config", str(file)) == values(*words)


def test_an_optional_path_that_toml_cannot_hold_is_a_comment(tmp_path: Path) -> None:
    text = config_toml(configure("conv", {"log.root": "/\udcff"}), {"log.root": "--set"})
    (tmp_path / "c.toml").write_text(text, "utf-8")
    assert re.search(r'^# root = "/\\udcff" .*\bUTF-8\b', text, re.MULTILINE)
    assert resolve(config_file=tmp_path / "c.toml", environment={})[0].log.root is None


@pytest.mark.parametrize("comments", [None, {"data.source": "--set"}])
def test_another_data_set_does_not_take_the_place_of_a_path_that_toml_cannot_hold(
    comments: dict[str, str] | None, tmp_path: Path
) -> None:
    text = config_toml(configure("conv", {"data.source": "/\udcff"}), comments)
    (tmp_path / "c.toml").write_text(text, "utf-8")
    assert re.search(r"^source = .*\bUTF-8\b", text, re.MULTILINE)
    assert resolve(config_file=tmp_path / "c.toml", environment={})[0].data.source == r"/\udcff"


CONFIG = '# é 日本\n[train]\nseed = 7\n[log]\nname = "日本"\n'


@pytest.mark.parametrize(
    "content",
    [
        CONFIG.encode(),
        codecs.BOM_UTF8 + CONFIG.encode(),
        CONFIG.replace("\n", "\r\n").encode(),
        codecs.BOM_UTF8 + CONFIG.replace("\n", "\r\n").encode(),
    ],
)
def test_utf_8_is_read_with_any_byte_order_mark_and_line_ends(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    config, _ = resolve(config_file=tmp_path / "c.toml", environment={})
    assert (config.train.seed, config.log.name) == (7, "日本")


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, b"\r\n", b"# only a comment"])
def test_an_empty_file_sets_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    assert resolve(config_file=tmp_path / "c.toml", environment={})[0] == resolve(environment={})[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONFIG.encode("utf-16"), r"\bUTF-16\b.*\bUTF-8\b"),
        (codecs.BOM_UTF16_BE + CONFIG.encode("utf-16-be"), r"\bUTF-16\b.*\bUTF-8\b"),
        (CONFIG.encode("utf-32"), r"\bUTF-32\b.*\bUTF-8\b"),
        ("[train]\nseed = 7".encode("utf-16-le"), r"\bbyte 1\b.*\bUTF-16\b.*\bUTF-8\b"),
        ("[train]\nseed = 7".encode("utf-16-be"), r"\bbyte 0\b.*\bUTF-16\b.*\bUTF-8\b"),
        (b"[train]\nseed = 7\0", r"\bbyte 16\b.*\bbinary\b.*\bUTF-8\b"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"\bbyte 8\b.*\bbinary\b.*\bUTF-8\b"),
        (b"PK\x03\x04\x14\0\0\0", r"\bbyte 5\b.*\bbinary\b.*\bUTF-8\b"),
        ("[log]\nname = 'é'".encode("latin-1"), r"\b0xe9\b.*\bline 2\b.*\bUTF-8\b"),
        (b"[train\nseed = 7", r"\bTOML\b"),
        (b"a = " + b"[" * 100_000, r"\bTOML\b"),
        (b"[train]\rseed = 7", r"\bTOML\b"),
    ],
)
def test_the_error_for_another_file_states_its_encoding_or_kind(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"--config {re.escape(str(file))}: .*{reason}"):
        resolve(config_file=file, environment={})


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("# Written by ganctl 9\n[train]\nsede = 1\n",))
    writer.start()
    with pytest.raises(ConfigError, match=rf"{re.escape(str(pipe))}: .*\bganctl 9\b.*'train\.sede'"):
        resolve(config_file=pipe, environment={})
    writer.join()


def test_a_folder_and_an_absent_file_are_named_in_the_error(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "absent", "No such file or directory")):
        done = CliRunner().invoke(cli, ["train", "--print-config", "--config", str(path)])
        assert done.exit_code == 3
        assert f"--config {path}: {reason}" in done.stderr
