"""Cards of small exports, and their code, for tests."""

import re
from pathlib import Path
from typing import Any

from PIL import Image

from ganctl.exports.documents import write_documents
from ganctl.exports.manifest import read
from tests.unit.serving.small_export import write_export


def write_carded_export(folder: Path, conditional: bool = True, channels: int = 1, **fields: Any) -> Path:
    """Writes a small export with its documents; see `write_export`. Its samples.png is a single pixel."""
    write_export(folder, conditional, channels, **fields)
    Image.new("L", (1, 1)).save(folder / "samples.png")
    write_documents(folder, read(folder))
    return folder


def code_blocks(card: str, language: str) -> list[str]:
    """Returns the code of a card in a language, in its order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)


def table(card: str, first_column: str) -> dict[str, list[str]]:
    """Returns the table whose first column has a name: the other cells of each row by the first one, all unescaped."""
    lines = card.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_column} |")) + 2
    rows: dict[str, list[str]] = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        first, *others = (re.sub(r"\\(.)", r"\1", cell) for cell in re.split(r" \| ", line[2:-2]))
        rows[first] = others
    return rows
