"""Which archives are served: those that are what was packed, and nothing that would do harm when it is unpacked."""

import hashlib
import json
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from ganctl.serving.archive import integrity
from ganctl.serving.archive.integrity import check_and_copy
from ganctl.serving.archive.mar import describe_archive, package
from ganctl.serving.errors import PackageError
from tests.unit.serving.archives import rewrite


@pytest.fixture(scope="module")
def packed(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole archive; not to be changed."""
    return package(export, tmp_path_factory.mktemp("packed"))


@pytest.fixture
def mar(packed: Path, tmp_path: Path) -> Path:
    """A copy of it in a folder of its own."""
    (tmp_path / "digits.mar").write_bytes(packed.read_bytes())
    return tmp_path / "digits.mar"


def contents(mar: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(mar) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def refuse(mar: Path, told: str) -> None:
    """Both who looks at an archive and who serves it refuse it, and name it."""
    with pytest.raises(PackageError, match=told) as caught:
        describe_archive(mar)
    assert str(mar) in str(caught.value)
    with pytest.raises(PackageError, match=told) as caught:
        check_and_copy(mar, mar.with_name("admitted.mar"))
    assert str(mar) in str(caught.value)
    assert not mar.with_name("admitted.mar").exists()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_every_member_is_listed_with_its_digest(mar: Path) -> None:
    members = contents(mar)
    listed = json.loads(members.pop("digests.json"))
    assert listed == {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    assert {"MAR-INF/MANIFEST.json", "ganctl_entry.py", "ganctl_handler/service.py", "generator.onnx"} <= listed.keys()


def test_what_is_admitted_holds_the_same_and_is_another_file(mar: Path) -> None:
    into = mar.with_name("admitted.mar")
    check_and_copy(mar, into)
    assert contents(into) == contents(mar)
    assert into.stat().st_ino != mar.stat().st_ino


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ganctl_handler/service.py": b"import os"}, "ganctl_handler/service.py in it is not the file"),
        ({"MAR-INF/MANIFEST.json": b"{}"}, "MAR-INF/MANIFEST.json in it is not the file"),
        ({"generator.onnx": b"another"}, "generator.onnx in it is not the file"),
        ({"more.py": b""}, "more.py in it is not the file"),
        ({"ganctl_handler/png.py": None}, "lacks ganctl_handler/png.py"),
        ({"digests.json": None}, "found no digests.json"),
        ({"digests.json": b"[]"}, "digests.json is not a JSON object"),
        ({"digests.json": b"{"}, "damaged"),
    ],
)
def test_what_is_not_what_was_packed_is_refused_by_name(
    mar: Path, changes: Mapping[str | zipfile.ZipInfo, bytes | None], told: str
) -> None:
    refuse(rewrite(mar, changes, sealed=False), told)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../evil.py", "outside its folder"),
        ("ganctl_handler/../../evil.py", "outside its folder"),
        ("/etc/evil", "outside its folder"),
        ("..\\evil.py", "outside its folder"),
        ("C:evil.py", "outside its folder"),
        ("a\nb", "outside its folder"),
        ("./evil.py", "not a plain file"),
        ("folder/", "not a plain file"),
        (link("link"), "not a plain file"),
        ("long.json", "1,048,577 bytes of text"),
        ("huge.bin", "expected at most 1,000 files"),
    ],
)
def test_what_would_do_harm_when_unpacked_is_refused_even_with_its_digest(
    mar: Path, name: str | zipfile.ZipInfo, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "_MAX_BYTES", 1 << 22)  # so that the bomb of this test is small
    content = {"long.json": bytes((1 << 20) + 1), "huge.bin": bytes(1 << 22)}.get(str(name), b"evil")
    refuse(rewrite(mar, {name: b"" if name == "folder/" else content}, sealed=True), told)


def test_two_members_of_one_name_are_refused(mar: Path) -> None:
    with zipfile.ZipFile(mar, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("ganctl_entry.py", b"import os")
    refuse(mar, "two members with the same name")


def test_too_many_members_are_refused(mar: Path) -> None:
    refuse(rewrite(mar, {f"{i}.txt": b"" for i in range(1001)}, sealed=True), "expected at most 1,000 files")


def test_a_member_that_says_it_is_smaller_than_it_is_unpacks_to_no_more(mar: Path) -> None:
    bomb = rewrite(mar, {"bomb.bin": bytes(1 << 20)}, sealed=True)
    content = bytearray(bomb.read_bytes())
    place = content.rindex(b"bomb.bin") - 46  # its entry in the directory at the end
    assert struct.unpack_from("<L", content, place + 24) == (1 << 20,)
    struct.pack_into("<L", content, place + 24, 10)
    bomb.write_bytes(content)
    refuse(bomb, "damaged")


def test_members_that_only_a_reader_from_the_front_sees_are_left_behind(mar: Path) -> None:
    hidden = mar.with_name("hidden.zip")
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.writestr("../evil.py", b"evil")
    content = hidden.read_bytes()
    front = content[: content.index(b"PK\x01\x02")]  # the member without the directory
    two_faced = mar.with_name("two-faced.mar")
    two_faced.write_bytes(front + mar.read_bytes())
    into = mar.with_name("admitted.mar")
    check_and_copy(two_faced, into)
    assert b"evil" in two_faced.read_bytes()
    assert b"evil" not in into.read_bytes()


def test_settings_that_a_few_lines_blow_up_are_refused(mar: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    bomb = rewrite(mar, {"model-config.yaml": "\n".join(lines).encode()}, sealed=True)
    with pytest.raises(PackageError, match="contains YAML aliases"):
        describe_archive(bomb)


def test_an_archive_that_is_not_the_pinned_one_is_refused(mar: Path) -> None:
    digest = hashlib.sha256(mar.read_bytes()).hexdigest()
    assert describe_archive(mar)["sha256"] == digest, "`ganctl inspect` and `ganctl package` tell what to pin"
    check_and_copy(mar, mar.with_name("admitted.mar"), digest.upper())
    forged = rewrite(mar, {"ganctl_entry.py": b"import os"}, sealed=True)
    check_and_copy(forged, mar.with_name("forged.mar"))  # its own list of digests agrees
    with pytest.raises(PackageError, match=f"--sha256 {digest}: .* is another file"):
        check_and_copy(forged, mar.with_name("pinned.mar"), digest)
    assert not mar.with_name("pinned.mar").exists()
