"""Reads an archive and verifies it: member paths, member digests and total size.

Each member must be a plain file in the archive's folder with the SHA-256 that was recorded when it was packed. The
digests are in the archive itself, so they prove that nothing was damaged, not who made the archive: a forger can
replace them too. Only the SHA-256 of the whole file, received over another channel, proves its origin.
"""

import hashlib
import io
import json
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ganctl.files import add_path_to_errors, read_file
from ganctl.serving.errors import PackageError

DIGESTS = "digests.json"
# Raised by reading a damaged archive. RuntimeError: a member is encrypted or uses an unknown compression method.
_READ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)

_MAX_MEMBERS = 1_000
_MAX_BYTES = 1 << 30  # of the archive, and of all members, unpacked
_MAX_TEXT_BYTES = 1 << 20  # of a member that is parsed as JSON or YAML


def digest_list(members: Mapping[str, bytes]) -> bytes:
    """The content of DIGESTS: the SHA-256 of each member, as JSON."""
    return json.dumps(_digests(members), indent=1).encode()


def read_archive(mar: Path, sha256: str | None = None) -> tuple[dict[str, bytes], str]:
    """Read an archive, and verify every member.

    Args:
        mar: the archive.
        sha256: the SHA-256 that the whole file must have; None to accept any.

    Returns:
        The contents of the members by name, and the SHA-256 of the whole file.

    Raises:
        PackageError: `mar` is absent, damaged, or another file, or a member is unsafe or not the one that was packed.
    """
    if not mar.is_file():
        raise PackageError(f"{mar}: no such archive. Make one with `ganctl package EXPORT_DIR`.")
    if mar.stat().st_size > _MAX_BYTES:
        raise PackageError(f"{mar}: found {mar.stat().st_size:,} bytes, expected at most {_MAX_BYTES:,}.")
    data = read_file(mar)
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise PackageError(f"--sha256 {sha256}: {mar} is another file, whose SHA-256 is {found}.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_members(archive, mar), found
    except _READ_ERRORS as error:
        raise PackageError(
            f"{mar}: is not an archive of `ganctl package`, or is damaged ({error}). Package the export again."
        ) from error


def check_and_copy(mar: Path, into: Path, sha256: str | None = None) -> dict[str, bytes]:
    """Verify the archive `mar` and write its members into a new archive, `into`. Serve only the new one.

    Returns the contents of the members by name.

    Nobody can exchange the copy after the verification. It also removes hidden members: TorchServe unpacks a zip file
    from the front by its local headers, while Python reads the directory at the end.

    Raises:
        PackageError: see `read_archive`.
    """
    members, _ = read_archive(mar, sha256)
    with add_path_to_errors(into), zipfile.ZipFile(into, "x") as copy:
        for name, content in members.items():
            copy.writestr(name, content)
    return members


def _read_members(archive: zipfile.ZipFile, mar: Path) -> dict[str, bytes]:
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)  # zipfile never unpacks more than file_size of a member
    if len(entries) > _MAX_MEMBERS or size > _MAX_BYTES:
        limits = f"at most {_MAX_MEMBERS:,} files with {_MAX_BYTES:,} bytes"
        raise PackageError(f"{mar}: unpacks to {len(entries):,} files with {size:,} bytes, expected {limits}.")
    for entry in entries:
        if (reason := _unsafe_reason(entry)) is not None:
            raise PackageError(f"{mar}: found the member {entry.filename[:100]!r}, {reason}. Do not use this file.")
    name, count = Counter(archive.namelist()).most_common(1)[0] if entries else ("", 0)
    if count > 1:
        raise PackageError(f"{mar}: found {count} members called {name[:100]!r}, expected one. Do not use this file.")
    members = {name: archive.read(name) for name in archive.namelist()}
    if DIGESTS not in members:
        raise PackageError(f"{mar}: found no {DIGESTS}, expected an archive of `ganctl package`. Package again.")
    recorded, found = json.loads(members[DIGESTS]), _digests(members)
    if not isinstance(recorded, dict):
        raise PackageError(f"{mar}: its {DIGESTS} is not a JSON object. Package the export again.")
    for name in sorted(recorded.keys() | found.keys()):
        if recorded.get(name) != found.get(name):
            raise PackageError(f"{mar}: {name} is missing, or is not the file that was packed. Package again.")
    return members


def _digests(members: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each member except DIGESTS."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in members.items() if name != DIGESTS}


def _unsafe_reason(member: zipfile.ZipInfo) -> str | None:
    """The reason why a member must not be unpacked, as a relative clause; None if it is safe."""
    name, file_type = member.filename, stat.S_IFMT(member.external_attr >> 16)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not name.isprintable():
        return "which would be unpacked outside its folder"
    if str(path) != name or file_type not in (0, stat.S_IFREG):
        return "which is not a plain file"
    if name.endswith((".json", ".yaml")) and member.file_size > _MAX_TEXT_BYTES:
        return f"which has {member.file_size:,} bytes of text; {_MAX_TEXT_BYTES:,} are allowed"
    return None
