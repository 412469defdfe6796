"""Escapes text for Markdown: the names of classes, data sets and authors may hold any character."""

import re

from ganctl.training.readers.tree import printable

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKUP = re.compile(r"[<>]|&(?=[#\w]+;)")  # an ampersand alone is text
_SPECIAL = re.compile(r"[\\`*_\[\]~|$]")  # $: the Hub renders formulas


def text(value: object) -> str:
    """Escapes a value for a place inside a line, such as the cell of a table: it stays one line and is no markup."""
    escaped = _SPECIAL.sub(r"\\\g<0>", printable(str(value)))
    return _MARKUP.sub(lambda match: _HTML[match[0]], escaped)


def file_size(count: int) -> str:
    """Formats a number of bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
