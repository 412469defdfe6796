"""Only archives with the members that were packed, and none that is unsafe to unpack, are accepted."""

import hashlib
import json
import shutil
import stat
import struct
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from ganctl.serving.archive.integrity import check_and_copy
from ganctl.serving.archive.mar import describe_archive
from ganctl.serving.errors import PackageError
from tests.unit.serving.archives import rewrite


@pytest.fixture
def mar(packed: Path, tmp_path: Path) -> Path:
    """A copy of the archive, which the test may change."""
    return Path(shutil.copy(packed, tmp_path / "digits.mar"))


def members_of(mar: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(mar) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def assert_refused(mar: Path, *facts: str) -> None:
    """Both `ganctl inspect` and `ganctl serve` refuse the archive; their error has its path and these facts."""
    copy = mar.with_name("checked.mar")
    for use in (lambda: describe_archive(mar), lambda: check_and_copy(mar, copy)):
        with pytest.raises(PackageError) as caught:
            use()
        for fact in (f"{mar}: ", *facts):
            assert fact in str(caught.value)
    assert not copy.exists()


def symbolic_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def declare_size(mar: Path, name: str, size: int) -> int:
    """Change the unpacked size of a member in the archive's directory, and return the true one."""
    content = bytearray(mar.read_bytes())
    place = content.rindex(name.encode()) - 46 + 24  # of the size in the member's entry of the directory
    (true_size,) = struct.unpack_from("<L", content, place)
    struct.pack_into("<L", content, place, size)
    mar.write_bytes(content)
    return int(true_size)


def test_every_member_is_listed_with_its_digest(mar: Path) -> None:
    members = members_of(mar)
    listed = json.loads(members.pop("digests.json"))
    assert listed == {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    assert {"MAR-INF/MANIFEST.json", "ganctl_entry.py", "ganctl_handler/service.py", "generator.onnx"} <= listed.keys()


def test_the_checked_copy_has_the_same_members_and_is_another_file(mar: Path) -> None:
    copy = mar.with_name("checked.mar")
    check_and_copy(mar, copy)
    assert members_of(copy) == members_of(mar)
    assert copy.stat().st_ino != mar.stat().st_ino


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"ganctl_handler/service.py": b"import os"}, "ganctl_handler/service.py"),
        ({"MAR-INF/MANIFEST.json": b"{}"}, "MAR-INF/MANIFEST.json"),
        ({"generator.onnx": b"another"}, "generator.onnx"),
        ({"more.py": b""}, "more.py"),
        ({"ganctl_handler/png.py": None}, "ganctl_handler/png.py"),
        ({"digests.json": None}, "digests.json"),
        ({"digests.json": b"[]"}, "digests.json"),
        ({"digests.json": b"{"}, "damaged"),
    ],
)
def test_an_archive_with_changed_added_or_missing_members_is_refused_with_the_members_name(
    mar: Path, changes: Mapping[str | zipfile.ZipInfo, bytes | None], fact: str
) -> None:
    assert_refused(rewrite(mar, changes, sealed=False), fact)


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("../evil.py", "'../evil.py'"),
        ("ganctl_handler/../../evil.py", "'ganctl_handler/../../evil.py'"),
        ("/etc/evil", "'/etc/evil'"),
        ("..\\evil.py", r"'..\\evil.py'"),
        ("C:evil.py", "'C:evil.py'"),
        ("a\nb", r"'a\nb'"),
        ("./evil.py", "'./evil.py'"),
        ("folder/", "'folder/'"),
        (symbolic_link("link"), "'link'"),
        ("long.json", "1,048,577"),
        ("huge.bin", "1,073,741,824"),
    ],
)
def test_unsafe_members_are_refused_even_with_a_valid_digest(mar: Path, name: str | zipfile.ZipInfo, fact: str) -> None:
    content = {"folder/": b"", "long.json": bytes((1 << 20) + 1)}.get(str(name), b"evil")
    unsafe = rewrite(mar, {name: content}, sealed=True)
    if name == "huge.bin":
        declare_size(unsafe, "huge.bin", 1 << 30)
    assert_refused(unsafe, fact)


def test_two_members_with_the_same_name_are_refused(mar: Path) -> None:
    with zipfile.ZipFile(mar, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("ganctl_entry.py", b"import os")
    assert_refused(mar, "ganctl_entry.py")


def test_too_many_members_are_refused(mar: Path) -> None:
    assert_refused(rewrite(mar, {f"{i}.txt": b"" for i in range(1001)}, sealed=True), "1,000 files")


def test_a_member_that_is_larger_than_its_declared_size_is_refused(mar: Path) -> None:
    bomb = rewrite(mar, {"bomb.bin": bytes(1 << 20)}, sealed=True)
    assert declare_size(bomb, "bomb.bin", 10) == 1 << 20
    assert_refused(bomb, "damaged")


def test_members_outside_the_zip_directory_are_not_copied(mar: Path) -> None:
    hidden = mar.with_name("hidden.zip")
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.writestr("../evil.py", b"evil")
    content = hidden.read_bytes()
    front = content[: content.index(b"PK\x01\x02")]  # the member without the directory
    ambiguous = mar.with_name("ambiguous.mar")
    ambiguous.write_bytes(front + mar.read_bytes())
    copy = mar.with_name("checked.mar")
    check_and_copy(ambiguous, copy)
    assert b"evil" in ambiguous.read_bytes()
    assert b"evil" not in copy.read_bytes()


def test_yaml_aliases_in_the_settings_are_refused(mar: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    bomb = rewrite(mar, {"model-config.yaml": "\n".join(lines).encode()}, sealed=True)
    with pytest.raises(PackageError, match=r"rewritten\.mar: .*model-config\.yaml .*aliases"):
        describe_archive(bomb)


def test_deeply_nested_settings_are_refused_at_once(mar: Path) -> None:
    for text in ("[" * 4000, "[" * 600 + "]" * 600):
        bomb, start = rewrite(mar, {"model-config.yaml": text.encode()}, sealed=True), time.monotonic()
        with pytest.raises(PackageError, match=r"rewritten\.mar: .*model-config\.yaml .*nested"):
            describe_archive(bomb)
        assert time.monotonic() - start < 3


def test_an_archive_with_another_sha256_than_the_pinned_one_is_refused(mar: Path) -> None:
    digest = hashlib.sha256(mar.read_bytes()).hexdigest()
    assert describe_archive(mar)["sha256"] == digest, "`ganctl inspect` and `ganctl package` print the digest to pin"
    check_and_copy(mar, mar.with_name("checked.mar"), digest.upper())
    forged = rewrite(mar, {"ganctl_entry.py": b"import os"}, sealed=True)
    check_and_copy(forged, mar.with_name("forged.mar"))  # its own list of digests agrees
    found = hashlib.sha256(forged.read_bytes()).hexdigest()
    with pytest.raises(PackageError, match=rf"--sha256 {digest}: .*rewritten\.mar .*{found}"):
        check_and_copy(forged, mar.with_name("pinned.mar"), digest)
    assert not mar.with_name("pinned.mar").exists()
