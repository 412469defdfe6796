"""Whether an archive may be unpacked: each member is a plain file of the archive's folder and has the SHA-256 that was
noted when it was packed, and all of them together have a bounded size.

The list of digests lies in the archive, so it proves that nothing was damaged or exchanged on the way, not who made it:
who can forge an archive can forge its list. Only the SHA-256 of the whole file, told by another way, does that.
"""

import hashlib
import json
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from ganctl.files import naming
from ganctl.serving.errors import PackageError

DIGESTS = "digests.json"
# What reading a damaged archive raises; RuntimeError stands for what is encrypted, or packed in a way unknown here.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)

_MOST_MEMBERS = 1_000
_MOST_BYTES = 1 << 30  # all members, unpacked
_BLOCK = 1 << 20  # bytes
_MOST_TEXT = 1 << 20  # a member that is read as JSON or YAML


def digest_list(members: Mapping[str, bytes]) -> bytes:
    """The content of DIGESTS: the SHA-256 of each member, as JSON."""
    return json.dumps(
        {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}, indent=1
    ).encode()


def verify(archive: zipfile.ZipFile, where: str) -> None:
    """Reads every member. Raises PackageError, or one of UNREADABLE, where one is not as it should be."""
    members = archive.infolist()
    size = sum(member.file_size for member in members)  # a member that unpacks to more than it says is cut, and found
    if len(members) > _MOST_MEMBERS or size > _MOST_BYTES:
        raise PackageError(
            f"{where}: unpacks to {len(members):,} files with {size:,} bytes; {_MOST_MEMBERS:,} files with "
            f"{_MOST_BYTES:,} bytes are the most that is unpacked."
        )
    for member in members:
        if (fault := _fault(member)) is not None:
            raise PackageError(f"{where}: holds {member.filename[:100]!r}, {fault}. It is not to be trusted.")
    names = [member.filename for member in members]
    if len(names) > len(set(names)):
        raise PackageError(f"{where}: holds two files of one name. It is not to be trusted.")
    if DIGESTS not in names:
        raise PackageError(
            f"{where}: is no archive of `ganctl package`, or of an older one: it has no {DIGESTS}. Package again."
        )
    listed, found = json.loads(archive.read(DIGESTS)), _digests(archive)
    if not isinstance(listed, dict):
        raise PackageError(f"{where}: {DIGESTS} in it is no list of digests. Package the export again.")
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise PackageError(f"{where}: lacks {name}, which was packed into it. Package the export again.")
        if listed.get(name) != found[name]:
            raise PackageError(f"{where}: {name} in it is not the file that was packed. Package the export again.")


def check_and_copy(mar: Path, into: Path, sha256: str | None = None) -> None:
    """Writes the members of `mar`, once verified, into a new archive, `into`; that is the one to be served.

    Nobody can exchange what was verified. And a forged file has no second face: TorchServe unpacks from the front and
    believes the headers beside the members, where Python believes the directory at the end.

    Raises PackageError where `mar` is absent or damaged, or is not the file whose SHA-256 is given.
    """
    if not mar.is_file():
        raise PackageError(f"{mar}: no such archive. `ganctl package EXPORT_DIR` makes one.")
    with tempfile.TemporaryFile() as private:
        with mar.open("rb") as original:
            _copy(original, mar, private)
        with naming(mar):
            private.seek(0)
        found = hashlib.file_digest(private, "sha256").hexdigest()
        if sha256 is not None and found != sha256.lower():
            raise PackageError(f"--sha256 {sha256}: {mar} is another file, whose SHA-256 is {found}.")
        try:
            with zipfile.ZipFile(private) as archive:
                verify(archive, str(mar))
                with naming(into), zipfile.ZipFile(into, "x") as fresh:
                    for name in archive.namelist():
                        with archive.open(name) as source, fresh.open(name, "w") as target:
                            shutil.copyfileobj(source, target)
        except UNREADABLE as error:
            raise PackageError(f"{mar}: is damaged ({error}). Package the export again.") from error


def _copy(original: IO[bytes], mar: Path, private: IO[bytes]) -> None:
    while True:
        with naming(mar):
            block = original.read(_BLOCK)
        with naming(Path(tempfile.gettempdir())):
            private.write(block)
            if not block:
                return private.flush()


def _digests(archive: zipfile.ZipFile) -> dict[str, str]:
    digests = {}
    for name in archive.namelist():
        if name != DIGESTS:
            with archive.open(name) as member:
                digests[name] = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed wants a raw file
    return digests


def _fault(member: zipfile.ZipInfo) -> str | None:
    name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not name.isprintable():
        return "which would be unpacked outside its folder"
    if str(path) != name or kind not in (0, stat.S_IFREG):
        return "which is no plain file"
    if name.endswith((".json", ".yaml")) and member.file_size > _MOST_TEXT:
        return f"which has {member.file_size:,} bytes of text; {_MOST_TEXT:,} are allowed"
    return None
