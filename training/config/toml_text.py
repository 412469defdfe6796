"""TOML text of settings: reads a user's file, and writes settings so that reading restores them."""

import codecs
import tomllib
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import tomli_w

UNSET = "unset"  # TOML has no null

_OTHER_ENCODINGS = {  # UTF-32 first, because its byte order mark begins with that of UTF-16
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_SAVE_AS_UTF_8 = "Save it as UTF-8"
_VALUE_WIDTH = 32  # characters before a comment


def decode_text(data: bytes) -> str:
    """Decodes a text file of a user: UTF-8 with or without a byte order mark.

    Raises:
        ValueError: the file has another encoding (named if it can be recognized) or is binary.
    """
    for encoding, marks in _OTHER_ENCODINGS.items():
        if data.startswith(marks):
            raise ValueError(f"found {encoding}, expected UTF-8. {_SAVE_AS_UTF_8}")
    if (position := data.find(0)) >= 0:
        start = data[:64]
        kind = "UTF-16" if 2 * start.count(0) == len(start) else "a binary file"  # every second byte of ASCII is NUL
        raise ValueError(f"found a NUL at byte {position}, as in {kind}, expected text in UTF-8. {_SAVE_AS_UTF_8}")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"found the byte 0x{data[error.start]:02x} in line {line}"
        raise ValueError(f"{found}, which is not UTF-8 (Latin-1 or Windows-1252?). {_SAVE_AS_UTF_8}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Parses TOML.

    Raises:
        ValueError: the text is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"not TOML: {error}") from error


def settings_toml(values: Mapping[str, Any], defaults: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Formats settings as a TOML file, one setting a line.

    Args:
        values: `preset` and every `section.key`; None if unset.
        defaults: values that apply to settings absent from the file. A setting that is unset in both is a comment.
        comments: text for the end of the line of a setting.
    """
    blocks = []
    for section, names in groupby(values, key=lambda name: name.rpartition(".")[0]):
        lines, tables = [f"[{section}]"] if section else [], []
        for name in names:
            key, value, comment = name.rpartition(".")[2], values[name], comments.get(name, "")
            if isinstance(value, Mapping):  # TOML puts a subtable after the section's other keys
                head, *rest = tomli_w.dumps({section: {key: value}}).rstrip("\n").split("\n")
                tables += ["", _append_comment(head, comment), *rest]
            else:
                lines.append(_append_comment(_assignment(key, value, defaults.get(name)), comment))
        blocks.append("\n".join(lines + tables))
    return "\n\n".join(blocks) + "\n"


def _assignment(key: str, value: Any, default: Any) -> str:
    if value is None:
        return f"# {key} = {UNSET}" if default is None else f'{key} = "{UNSET}"'
    text = tomli_w.dumps({key: value}).rstrip("\n")
    try:
        text.encode()
    except UnicodeEncodeError:  # a path may hold other bytes
        note = "not UTF-8, which TOML cannot hold; give it with --set"
        if default is None:
            return f"# {_escape_unprintable(text)} ({note})"
        # not a comment, as the default would take its place; an escaped path does not exist
        return tomli_w.dumps({key: _escape_unprintable(value)}).rstrip("\n") + f"  # {note}"
    return text


def _append_comment(text: str, comment: str) -> str:
    return f"{text:{_VALUE_WIDTH}} # {_escape_unprintable(comment)}" if comment else text


def _escape_unprintable(text: str) -> str:
    """Escapes control characters, which a TOML comment cannot hold."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
