"""A configuration as a file: what is printed is read again as the same settings, and any file is read or named."""

import codecs
import json
import os
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
from ganctl.training.config.resolve import config_toml, configure, preset_names, resolve
from ganctl.training.config.schema import Config
from ganctl.training.errors import ConfigError
from tests.waiting import PATIENCE


def shown(*words: str) -> str:
    """What `train --print-config WORDS…` prints."""
    done = CliRunner().invoke(cli, ["train", "--print-config", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def values(*words: str) -> dict[str, object]:
    return {name: record["value"] for name, record in json.loads(shown("--json", *words)).items()}


SETTINGS: list[tuple[str, ...]] = [
    (),
    ("data.root=/a b/Téléchargements/日本 & co #1",),
    ("data.root=/quote\"and'backslash\\n\\",),
    ("data.root=/line\nbreak\ttab",),
    ("checkpoint.monitor_threshold=unset", "early_stopping.stopping_threshold=5", "log.name=2024"),
    ("checkpoint.filename={step:08d}-{fd:.2f} #1",),
    ('model.options={ gain = 2, "a b" = 0.5, "é\\"=\\n" = "日本 \\\\ \'", yes = true, "" = "unset" }',),
    ("train.duration=7 epochs", "optimizer.lr=1e-9", "train.seed=9007199254740991", "data.on_device=false"),
    ("log.name=unset", "data.root=unset", "model.options={}"),
]


@pytest.mark.parametrize("assignments", SETTINGS)
def test_what_is_printed_gives_the_same_settings_again(assignments: tuple[str, ...], tmp_path: Path) -> None:
    words = [word for assignment in assignments for word in ("--set", assignment)]
    file = tmp_path / "c.toml"
    file.write_text(shown(*words), "utf-8")
    assert values("--config", str(file)) == values(*words)


@pytest.mark.parametrize("name", preset_names())
def test_so_does_every_preset_also_where_all_that_can_be_is_unset(name: str, tmp_path: Path) -> None:
    possible = [key for key, value in Config().flat().items() if value is None]
    assert possible
    for words in ([], [word for key in possible for word in ("--set", f"{key}=unset")]):
        file = tmp_path / "c.toml"
        file.write_text(shown("--preset", name, *words), "utf-8")
        assert values("--config", str(file)) == values("--preset", name, *words)


def test_each_value_has_its_origin_and_its_meaning_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANCTL_TRAIN__SEED", "3")
    lines = shown("--epochs", "3", "--set", "log.every=7", "--set", "checkpoint.monitor_threshold=unset").splitlines()
    for setting, origin, meaning in (
        ("seed = 3", "GANCTL_TRAIN__SEED", "seed of all random numbers"),
        ('duration = "3 epochs"', "--epochs", "length of the run"),
        ("every = 7", "--set", "steps between"),
        ("# root = unset", "default", "folder of"),
        ('monitor_threshold = "unset"', "--set", "a score"),
        ('name = "relativistic"', "preset conv", "relativistic, "),
    ):
        assert any(line.startswith(setting) and f"# {origin} " in line and meaning in line for line in lines), setting


def test_a_run_is_repeated_by_the_file_in_its_folder(tmp_path: Path) -> None:
    config = configure(
        "conv", {"checkpoint.monitor_threshold": None, "data.root": "/é\n#", "model.options": {"a": "\\"}}
    )
    write_settings(tmp_path, config, ranks=1)
    assert resolve(config_file=tmp_path / "config.toml", environment={})[0] == config


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    root=st.none() | TEXT.filter(lambda text: not text.startswith("~")),  # the home of a user, who may not exist
    options=st.dictionaries(TEXT, TEXT | st.booleans() | NUMBERS),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    origin=TEXT,
)
def test_so_do_any_texts_and_numbers(
    root: str | None, options: dict[str, object], rate: float, origin: str, tmp_path: Path
) -> None:
    config = configure("conv", {"data.root": root, "model.options": options, "optimizer.lr": rate})
    file = tmp_path / "c.toml"
    file.write_text(config_toml(config, dict.fromkeys(["preset", *config.flat()], origin)), "utf-8", newline="")
    assert resolve(config_file=file, environment={})[0] == config


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252", "shift_jis"])
def test_an_output_of_any_encoding_is_read_again(encoding: str, tmp_path: Path) -> None:
    words = ["--set", "data.root=/é/日本/😀", "--set", 'model.options={"ü" = "γ"}']
    file = tmp_path / "c.toml"
    with file.open("wb") as output:
        subprocess.run(
            [sys.executable, "-m", "ganctl", "train", "--print-config", *words],
            env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin"}, stdout=output, check=True, timeout=PATIENCE,
        )  # fmt: skip
    assert values("--config", str(file)) == values(*words)


def test_a_path_that_toml_cannot_hold_is_a_comment(tmp_path: Path) -> None:
    text = config_toml(configure("conv", {"data.root": "/\udcff"}), {"data.root": "--set"})
    (tmp_path / "c.toml").write_text(text, "utf-8")
    assert r'# root = "/\udcff" (not UTF-8' in text
    assert resolve(config_file=tmp_path / "c.toml", environment={})[0].data.root is None


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
def test_utf_8_is_read_as_editors_write_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    config, _ = resolve(config_file=tmp_path / "c.toml", environment={})
    assert (config.train.seed, config.log.name) == (7, "日本")


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, b"\r\n", b"# only a comment"])
def test_an_empty_file_sets_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    assert resolve(config_file=tmp_path / "c.toml", environment={})[0] == resolve(environment={})[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (CONFIG.encode("utf-16"), "found UTF-16, expected UTF-8. Save it as UTF-8"),
        (codecs.BOM_UTF16_BE + CONFIG.encode("utf-16-be"), "found UTF-16, expected UTF-8. Save it as UTF-8"),
        (CONFIG.encode("utf-32"), "found UTF-32, expected UTF-8"),
        ("[train]\nseed = 7".encode("utf-16-le"), "found a NUL at byte 1, as in UTF-16, expected text in UTF-8"),
        ("[train]\nseed = 7".encode("utf-16-be"), "found a NUL at byte 0, as in UTF-16, expected text in UTF-8"),
        (b"[train]\nseed = 7\0", "found a NUL at byte 16, as in a binary file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "as in a binary file"),
        (b"PK\x03\x04\x14\0\0\0", "as in a binary file"),
        ("[log]\nname = 'é'".encode("latin-1"), "found the byte 0xe9 in line 2, which is not UTF-8"),
        (b"[train\nseed = 7", "not TOML: "),
        (b"a = " + b"[" * 100_000, "not TOML: "),
        (b"[train]\rseed = 7", "not TOML: "),
    ],
)
def test_any_other_file_is_named_for_what_it_is(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        resolve(config_file=file, environment={})
    assert f"--config {file}: {told}" in str(raised.value) or told in str(raised.value)
    assert str(file) in str(raised.value)


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("# Written by ganctl 9\n[train]\nsede = 1\n",))
    writer.start()
    with pytest.raises(ConfigError, match=r"written by ganctl 9, .* unknown setting 'train\.sede'"):
        resolve(config_file=pipe, environment={})
    writer.join()


def test_a_folder_and_an_absent_file_are_told(tmp_path: Path) -> None:
    for path, told in ((tmp_path, "Is a directory"), (tmp_path / "absent", "No such file or directory")):
        done = CliRunner().invoke(cli, ["train", "--print-config", "--config", str(path)])
        assert done.exit_code == 3
        assert f"--config {path}: {told}; expected a TOML file" in done.stderr
