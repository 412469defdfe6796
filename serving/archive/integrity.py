"""Verification of an archive before it is unpacked: member paths, member digests and total size.

Each member must be a plain file in the archive's folder with the SHA-256 that was recorded when it was packed. The
digests are in the archive itself, so they prove that nothing was damaged, not who made the archive: a forger can
replace them too. Only the SHA-256 of the whole file, received over another channel, proves its origin.
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

from ganctl.files import add_path_to_errors
from ganctl.serving.errors import PackageError

DIGESTS = "digests.json"
# Raised by reading a damaged archive. RuntimeError: a member is encrypted or uses an unknown compression method.
READ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)

_MAX_MEMBERS = 1_000
_MAX_BYTES = 1 << 30  # of all members, unpacked
_BLOCK_BYTES = 1 << 20
_MAX_TEXT_BYTES = 1 << 20  # of a member that is parsed as JSON or YAML


def digest_list(members: Mapping[str, bytes]) -> bytes:
    """The content of DIGESTS: the SHA-256 of each member, as JSON."""
    return json.dumps(
        {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}, indent=1
    ).encode()


def verify(archive: zipfile.ZipFile, source: str) -> None:
    """Read and check every member.

    Args:
        archive: the open archive.
        source: its path, for messages.

    Raises:
        PackageError: a member is unsafe, absent, or not the one that was packed.
        READ_ERRORS: the archive is damaged.
    """
    members = archive.infolist()
    size = sum(member.file_size for member in members)  # zipfile never unpacks more than file_size of a member
    if len(members) > _MAX_MEMBERS or size > _MAX_BYTES:
        raise PackageError(
            f"{source}: unpacks to {len(members):,} files with {size:,} bytes, expected at most {_MAX_MEMBERS:,} files "
            f"with {_MAX_BYTES:,} bytes."
        )
    for member in members:
        if (reason := _unsafe_reason(member)) is not None:
            raise PackageError(f"{source}: found the member {member.filename[:100]!r}, {reason}. Do not use this file.")
    names = [member.filename for member in members]
    if len(names) > len(set(names)):
        raise PackageError(f"{source}: found two members with the same name. Do not use this file.")
    if DIGESTS not in names:
        raise PackageError(f"{source}: found no {DIGESTS}, expected an archive of `ganctl package`. Package again.")
    recorded, found = json.loads(archive.read(DIGESTS)), _digests(archive)
    if not isinstance(recorded, dict):
        raise PackageError(f"{source}: its {DIGESTS} is no JSON object. Package the export again.")
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found:
            raise PackageError(f"{source}: lacks {name}, which was packed into it. Package the export again.")
        if recorded.get(name) != found[name]:
            raise PackageError(f"{source}: {name} in it is not the file that was packed. Package the export again.")


def check_and_copy(mar: Path, into: Path, sha256: str | None = None) -> None:
    """Verify the archive `mar` and write its members into the new archive `into`, the only one to serve.

    The copy cannot be exchanged after the verification. It also removes hidden members: TorchServe unpacks a zip file
    from the front by its local headers, while Python reads the directory at the end.

    Raises:
        PackageError: `mar` is absent or damaged, or does not have the SHA-256 `sha256`.
    """
    if not mar.is_file():
        raise PackageError(f"{mar}: no such archive. Make one with `ganctl package EXPORT_DIR`.")
    with tempfile.TemporaryFile() as private:
        with mar.open("rb") as original:
            _copy(original, mar, private)
        with add_path_to_errors(mar):
            private.seek(0)
        found = hashlib.file_digest(private, "sha256").hexdigest()
        if sha256 is not None and found != sha256.lower():
            raise PackageError(f"--sha256 {sha256}: {mar} is another file, whose SHA-256 is {found}.")
        try:
            with zipfile.ZipFile(private) as archive:
                verify(archive, str(mar))
                with add_path_to_errors(into), zipfile.ZipFile(into, "x") as copy:
                    for name in archive.namelist():
                        with archive.open(name) as source, copy.open(name, "w") as target:
                            shutil.copyfileobj(source, target)
        except READ_ERRORS as error:
            raise PackageError(f"{mar}: is damaged ({error}). Package the export again.") from error


def _copy(original: IO[bytes], mar: Path, private: IO[bytes]) -> None:
    """Copy a file so that an OSError names the side that failed: `mar` or the temporary folder."""
    while True:
        with add_path_to_errors(mar):
            block = original.read(_BLOCK_BYTES)
        with add_path_to_errors(Path(tempfile.gettempdir())):
            private.write(block)
            if not block:
                return private.flush()


def _digests(archive: zipfile.ZipFile) -> dict[str, str]:
    """The SHA-256 of each member except DIGESTS."""
    digests = {}
    for name in archive.namelist():
        if name != DIGESTS:
            with archive.open(name) as member:
                digests[name] = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed wants a raw file
    return digests


def _unsafe_reason(member: zipfile.ZipInfo) -> str | None:
    """The reason why a member must not be unpacked, as a relative clause; None if it is safe."""
    name, file_type = member.filename, stat.S_IFMT(member.external_attr >> 16)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not name.isprintable():
        return "which would be unpacked outside its folder"
    if str(path) != name or file_type not in (0, stat.S_IFREG):
        return "which is no plain file"
    if name.endswith((".json", ".yaml")) and member.file_size > _MAX_TEXT_BYTES:
        return f"which has {member.file_size:,} bytes of text; {_MAX_TEXT_BYTES:,} are allowed"
    return None
