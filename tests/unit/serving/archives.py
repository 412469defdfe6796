"""Copies of an archive with other members."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from ganctl.serving.archive.integrity import DIGESTS, digest_list


def rewrite(mar: Path, changes: Mapping[str | zipfile.ZipInfo, bytes | None], *, sealed: bool) -> Path:
    """Write `rewritten.mar` beside `mar`, with members changed, added, or (None) removed.

    sealed: whether the list of digests is updated to the new members.
    """
    out = mar.with_name("rewritten.mar")
    names = [change.filename if isinstance(change, zipfile.ZipInfo) else change for change in changes]
    with zipfile.ZipFile(mar) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name not in names and not (sealed and name == DIGESTS):
                new.writestr(name, old.read(name))
        for change, content in changes.items():
            if content is not None:
                new.writestr(change, content)
        if sealed:
            members = {name: new.read(name) for name in dict.fromkeys(new.namelist())}
            new.writestr(DIGESTS, digest_list(members))
    return out
