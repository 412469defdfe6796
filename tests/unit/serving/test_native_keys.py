"""Keys of the native host: named, revocable while the server runs, and never compared as text."""

import os
from pathlib import Path

import pytest

from ganctl.serving.client.tokens import Token
from ganctl.serving.errors import SettingError
from ganctl.serving.hosts.native.keys import Keys, write_new_key


def test_each_line_is_a_name_and_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# comment\n\nann  first-key\nbob\tsecond-key\n")
    keys = Keys(path)
    assert keys.accept("Bearer first-key") == "ann"
    assert keys.accept("bearer  second-key ") == "bob"
    for wrong in ("", "Bearer", "Bearer ", "Bearer first", "Basic first-key", "first-key", "Bearer ann", "Bearer é"):
        assert keys.accept(wrong) is None, wrong


def test_a_key_that_is_removed_from_the_file_is_refused_after_the_next_reload(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("ann one\nbob two\n")
    keys = Keys(path)
    assert not keys.reload()
    path.write_text("bob two\n")
    os.utime(path, ns=(1, 1))  # another time than before, on any clock
    assert keys.reload()
    assert (keys.accept("Bearer one"), keys.accept("Bearer two")) == (None, "bob")


def test_a_file_that_cannot_be_read_any_more_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("ann one\n")
    keys = Keys(path)
    path.unlink()
    with pytest.raises(SettingError, match=str(path)):
        keys.reload()
    assert keys.accept("Bearer one") == "ann"
    assert not keys.reload(), "the same error is not reported again"


@pytest.mark.parametrize("text", ["{", "{}", '{"inference": 1}', '{"inference": {"key'])
def test_a_token_file_that_is_half_written_changes_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    key = write_new_key(path)
    keys = Keys(path)
    path.write_text(text)
    os.utime(path, ns=(1, 1))
    with pytest.raises(SettingError, match="found no key"):
        keys.reload()
    assert keys.accept(f"Bearer {key}") == "inference"


@pytest.mark.parametrize("text", ["ann\n", "ann one two\n"])
def test_a_line_without_a_name_or_a_key_is_named_with_its_number(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"bob two\n{text}")
    with pytest.raises(SettingError, match="line 2: found"):
        Keys(path)


def test_the_client_reads_a_new_token_file_and_its_key_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    write_new_key(path)
    assert path.stat().st_mode & 0o077 == 0
    header = Token(None, path, None).header()["Authorization"]
    assert Keys(path).accept(header) == "inference"
    assert len(header) > 30
