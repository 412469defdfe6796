"""License of a data set, as the set itself states it: the card of a Hugging Face data set, or a file LICENSE."""

import re

from ganctl.training.readers.tree import Tree

_CARD = re.compile(r"\A---\n.*?^license:\s*(?P<license>[\w.+-]+)\s*$.*?^---$", re.MULTILINE | re.DOTALL)
_NAMES = ("license", "license.txt", "license.md", "licence", "licence.txt", "licence.md", "copying")
_MAX_BYTES, _MAX_CHARACTERS = 1 << 16, 200


def find_license(tree: Tree) -> str:
    """Returns the identifier in the front matter of README.md, else the first line of LICENSE; empty without them."""
    for level in tree.places():
        files = {path.name.lower(): path for path in tree.content(level).files}
        if path := files.get("readme.md"):
            text = tree.read(path)[:_MAX_BYTES].decode("utf-8", "replace")
            if match := _CARD.match(text.replace("\r\n", "\n")):
                return match["license"]
        if path := next((files[name] for name in _NAMES if name in files), None):
            text = tree.read(path)[:_MAX_BYTES].decode("utf-8", "replace")
            return next((line.strip()[:_MAX_CHARACTERS] for line in text.splitlines() if line.strip()), "")
    return ""
