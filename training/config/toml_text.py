"""Settings as TOML: read from a user's file, and written so that reading gives the same settings again."""

import codecs
import tomllib
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import tomli_w

UNSET = "unset"  # TOML has no null

_MARKS = {  # of other encodings at the start of a file; UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SAVE = "Save it as UTF-8"
_VALUE_WIDTH, _SOURCE_WIDTH = 32, 22


def decode_text(data: bytes) -> str:
    """The text of a file that a user wrote: UTF-8, with or without a byte order mark.

    Raises:
        ValueError: another encoding, named where it can be told, or no text.
    """
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            raise ValueError(f"found {encoding}, expected UTF-8. {_SAVE}")
    if (position := data.find(0)) >= 0:
        halves = [set(data[i:64:2]) for i in (0, 1)]  # in UTF-16 without a mark every second byte of English is a NUL
        kind = "UTF-16" if {0} in halves and not all(0 in half for half in halves) else "a binary file"
        raise ValueError(f"found a NUL at byte {position}, as in {kind}, expected text in UTF-8. {_SAVE}")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"found the byte 0x{data[error.start]:02x} in line {line}, which is not UTF-8 (Latin-1 or Windows-1252?)."
            f" {_SAVE}"
        ) from error


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises ValueError where it is none."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"not TOML: {error}") from error


def settings_toml(
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    sources: Mapping[str, str] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> str:
    """Settings as a TOML file, one a line.

    Args:
        values: `preset` and every `section.key`; None where unset.
        defaults: the values that a setting has where the file does not name it. Such settings are comments where unset.
        sources: where each value came from, for a comment.
        meanings: what each setting means, for the same comment.
    """
    blocks = []
    for section, names in groupby(values, key=lambda name: name.rpartition(".")[0]):
        lines, tables = [f"[{section}]"] if section else [], []
        for name in names:
            key, value = name.rpartition(".")[2], values[name]
            comment = f"# {_printable((sources or {}).get(name, '')):{_SOURCE_WIDTH}} {(meanings or {}).get(name, '')}"
            if isinstance(value, Mapping):  # a table of its own, after the section's other keys
                head, *rest = tomli_w.dumps({section: {key: value}}).rstrip("\n").split("\n")
                tables += ["", _commented(head, comment), *rest]
            else:
                lines.append(_commented(_assignment(key, value, defaults.get(name)), comment))
        blocks.append("\n".join(lines + tables))
    return "\n\n".join(blocks) + "\n"


def _assignment(key: str, value: Any, default: Any) -> str:
    if value is None:
        return f"# {key} = {UNSET}" if default is None else f'{key} = "{UNSET}"'
    text = tomli_w.dumps({key: value}).rstrip("\n")
    try:
        text.encode()
    except UnicodeEncodeError:  # a path of other bytes
        return f"# {_printable(text)} (not UTF-8, which TOML cannot hold: give it by --set)"
    return text


def _commented(text: str, comment: str) -> str:
    return f"{text:{_VALUE_WIDTH}} {comment.rstrip()}" if comment.strip("# ") else text


def _printable(text: str) -> str:
    """Text for a comment, which cannot hold control characters."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
