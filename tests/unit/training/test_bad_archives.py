"""Bad archives: one message that names the path, exit code 4, and nothing written, not even into the cache."""

import io
import json
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.training.readers.containers import open_container
from tests.conftest import Ganctl
from tests.unit.training.bad_data import Build, assert_refused, cases, cut, packed
from tests.unit.training.formats import Drawn, class_folders, draw, open_tar, pack, write, zipped


def zip_with(members: dict[str, bytes], **attributes: int) -> Build:
    """Returns a function that writes a ZIP archive; `attributes` are set in each member's ZipInfo."""

    def build(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "set.zip", "w") as archive:
            for name, content in members.items():
                info = zipfile.ZipInfo(name)
                for attribute, value in attributes.items():
                    setattr(info, attribute, value)
                archive.writestr(info, content)
        return folder / "set.zip"

    return build


def tar_with(*members: tarfile.TarInfo, suffix: str = "tar") -> Build:
    """Returns a function that writes a tar archive of class folders and these members."""

    def build(folder: Path) -> Path:
        class_folders(draw("L"), folder / "set")
        with open_tar(folder / f"set.{suffix}") as archive:
            archive.add(folder / "set", arcname="set")
            for member in members:
                archive.addfile(member, io.BytesIO(bytes(member.size)))
        return folder / f"set.{suffix}"

    return build


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def file_called(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = 10
    return info


def encrypted(folder: Path) -> Path:
    """A ZIP archive whose members have the flag of encryption."""
    path = pack(class_folders(draw("L"), folder / "set"), "zip")
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 4)
    return write(path, bytes(content))


def bomb(folder: Path) -> Path:
    """A small ZIP archive whose list of members promises 3 GB."""
    path = zip_with({"ape/1.png": bytes(1000)}, compress_type=zipfile.ZIP_DEFLATED)(folder)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2") + 24
    content[at : at + 4] = struct.pack("<I", 3 << 30)
    return write(path, bytes(content))


def corrupt_member(folder: Path) -> Path:
    """A ZIP archive in which one byte of an image is another one."""
    path = pack(class_folders(draw("L"), folder / "set"), "zip")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    return write(path, bytes(content))


def zip_of_zips(folder: Path) -> Path:
    inner = [pack(class_folders(draw("L", seed=seed), folder / f"{seed}"), "zip") for seed in range(2)]
    path = zip_with({each.name: each.read_bytes() for each in inner})(folder)
    for each in inner:
        each.unlink()
    return path


ARCHIVES: list[tuple[str, Build, str]] = [
    ("an empty ZIP archive", zip_with({}), "no images"),
    ("an empty file", lambda folder: write(folder / "set.zip", b""), "empty"),
    ("a ZIP archive of ZIP archives", zip_of_zips, "0.zip"),
    ("a ZIP archive without images", zip_with({"notes.txt": b"text", "table.xlsx": b"x"}), "table.xlsx"),
    ("another file called .zip", lambda folder: write(folder / "set.zip", b"<html>not found</html>"), "set.zip"),
    ("another file called .tar", lambda folder: write(folder / "set.tar", b"<html>not found</html>"), "set.tar"),
    ("a path upwards in ZIP", zip_with({"../../etc/x.png": b"x"}), "../../etc/x.png"),
    ("a path upwards with backslashes", zip_with({"..\\x.png": b"x"}), "..\\"),
    ("a path from the root in ZIP", zip_with({"/tmp/x.png": b"x"}), "/tmp/x.png"),
    ("a path with a drive in ZIP", zip_with({"C:/x.png": b"x"}), "C:/x.png"),
    ("a path upwards in tar", tar_with(file_called("a/../../x.png")), "a/../../x.png"),
    ("a path from the root in tar.gz", tar_with(file_called("/tmp/x.png"), suffix="tar.gz"), "/tmp/x.png"),
    ("a link in ZIP", zip_with({"ape/x.png": b"/etc/passwd"}, external_attr=0o120777 << 16), "ape/x.png"),
    ("a link in tar", tar_with(link("x.png", "/etc/passwd", tarfile.SYMTYPE)), "x.png"),
    ("a hard link in tar.xz", tar_with(link("x.png", "set/ape/00000.png", tarfile.LNKTYPE), suffix="tar.xz"), "x.png"),
    ("an encrypted ZIP archive", encrypted, "set.zip: found encrypted"),
    ("a ZIP bomb", bomb, f"{3 << 30:,}"),
    ("a truncated ZIP archive", cut(packed("zip"), 0.7), "ZIP"),
    ("a damaged image in a ZIP archive", corrupt_member, "damaged"),
    *((f"a truncated {suffix} archive", cut(packed(suffix), 0.6), "tar") for suffix in ("tar", "tar.gz", "tar.xz")),
]


@cases(ARCHIVES)
def test_archives(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tar.bz2", "zip"])
def test_an_archive_that_is_cut_anywhere_is_refused(suffix: str, tmp_path: Path) -> None:
    """Also between two files, where a tar archive looks complete."""
    path = pack(class_folders(draw("L"), tmp_path / "set"), suffix)
    content = path.read_bytes()
    for share in np.linspace(0.1, 0.95, 12):
        path.write_bytes(content[: int(share * len(content))])
        result = CliRunner().invoke(cli, ["train", str(path), "--dry-run", "--set", "data.num_workers=0"])
        assert result.exit_code == 4, (share, result.output)
        assert str(path) in result.output


@pytest.mark.soak
def test_a_compressed_tar_bomb(ganctl: Ganctl, tmp_path: Path) -> None:
    """2 GB of zeros in 300 kB."""
    header = tarfile.TarInfo("ape/1.png")
    header.size = 2 << 30
    zeros = lzma.compress(bytes(1 << 28), preset=0)
    path = write(tmp_path / "set.tar.xz", lzma.compress(header.tobuf()) + 8 * zeros)
    assert_refused(ganctl, tmp_path, path, f"{path.stat().st_size:,} bytes")


def test_a_bomb_with_a_wrong_size_is_not_unpacked(tmp_path: Path) -> None:
    """A member that declares 100 bytes and holds 64 MB is unpacked up to little more than 100 bytes."""
    path = zip_with({"1.png": bytes(1 << 26)}, compress_type=zipfile.ZIP_DEFLATED)(tmp_path)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = content.index(signature) + offset
        content[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(content)
    container = open_container(path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="damaged"):
            container.read(path / "1.png")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 22


def test_names_with_a_colon_are_no_drives(tmp_path: Path) -> None:
    drawn = draw("L", count=12)
    drawn = Drawn(drawn.pixels, drawn.labels, ("faces: happy", "faces: sad", "ratio 1:1"))
    path = zipped(class_folders(drawn, tmp_path / "set"), tmp_path / "set.zip")
    result = CliRunner().invoke(cli, ["inspect", str(path), "--out", str(tmp_path / "sheet.png"), "--json"])
    assert [each["name"] for each in json.loads(result.stdout)["classes"]] == list(drawn.names)


@cases([ARCHIVES[0], ARCHIVES[6]])
def test_inspect_refuses_archives(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message, command="inspect")
