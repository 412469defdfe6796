"""Bad data sets: one message that names the path, exit code 4, and nothing written, not even into the cache."""

import csv
import io
import json
import lzma
import os
import pickle
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.readers.containers import open_container
from tests.conftest import Ganctl, one_object
from tests.unit.training.formats import (
    Drawn,
    class_folders,
    dataset_json,
    draw,
    flat,
    idx,
    idx_file,
    labels_csv,
    metadata_csv,
    npz,
    open_tar,
    pack,
    parquet_file,
    write,
    write_table,
    zipped,
)

Build = Callable[[Path], Path]  # writes a data set into a folder; returns the path for the command


def entries(folder: Path) -> list[str]:
    """Lists everything below a folder but the folders of the user's cache, which are no half-written data."""
    cache = folder / "user-cache"
    paths = (path for path in folder.rglob("*") if not (path.is_dir() and cache in (path, *path.parents)))
    return sorted(str(path.relative_to(folder)) for path in paths)


def assert_refused(ganctl: Ganctl, folder: Path, path: Path, message: str, *words: str, command: str = "train") -> None:
    """Asserts that a command ends with exit code 4 and one message, and leaves no file."""
    (folder / "temporary").mkdir()
    env = os.environ | {"XDG_CACHE_HOME": str(folder / "user-cache"), "TMPDIR": str(folder / "temporary")}
    before = entries(folder)
    done = ganctl(command, path, "--json", *words, env=env)
    assert done.returncode == 4, done.stderr
    record = one_object(done.stdout)
    assert record["exit_code"] == 4
    assert str(path) in str(record["error"])
    assert message in str(record["error"])
    assert [line.startswith("Error: ") for line in done.stderr.splitlines()].count(True) == 1
    assert "Traceback" not in done.stderr
    assert entries(folder) == before


# --- archives ---


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


def cut(build: Build, share: float) -> Build:
    """Returns a function that writes a file and truncates it."""

    def build_and_cut(folder: Path) -> Path:
        path = build(folder)
        content = path.read_bytes()
        return write(path, content[: int(len(content) * share)])

    return build_and_cut


def packed(suffix: str) -> Build:
    return lambda folder: pack(class_folders(draw("L"), folder / "set"), suffix)


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


def cases(table: list[tuple[str, Build, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("build", "message"), [pytest.param(*rest, id=name) for name, *rest in table])


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


# --- arrays ---


def npz_with(**arrays: object) -> Build:
    def build(folder: Path) -> Path:
        np.savez(folder / "set.npz", **arrays)  # type: ignore[arg-type]  # its stub takes further arrays for `allow_pickle`
        return folder / "set.npz"

    return build


def pixels(dtype: type = np.float32, *, low: float = 0, high: float = 1) -> np.ndarray:
    unit = draw("L").pixels.astype(np.float64) / 255
    unit.ravel()[:2] = (0, 1)
    return (low + unit * (high - low)).astype(dtype)


def with_value(value: float) -> np.ndarray:
    array = pixels()
    array[3, 4, 5] = value
    return array


def objects(folder: Path) -> Path:
    """Pickled objects, which would run code when they are loaded."""

    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(folder / "was run"),))

    return npz_with(images=np.array([Harmful()] * 20, object), labels=np.arange(20) % 2)(folder)


def pickled(folder: Path) -> Path:
    """A pickle with the name of an .npz file."""
    return write(folder / "set.npz", pickle.dumps({"images": [1, 2]}))


def npz_bomb(folder: Path) -> Path:
    """An .npz file whose list of arrays promises 3 GB."""
    np.savez_compressed(folder / "set.npz", images=np.zeros((1000, 28, 28), np.uint8))
    content = bytearray((folder / "set.npz").read_bytes())
    at = content.index(b"PK\1\2") + 24
    content[at : at + 4] = struct.pack("<I", 3 << 30)
    return write(folder / "set.npz", bytes(content))


def gray_idx(folder: Path, *, labels: int = 60) -> Path:
    idx()(draw("L"), folder / "set")
    idx_file(folder / "set/labels-idx1-ubyte", (np.arange(labels) % 3).astype(np.uint8))
    return folder / "set"


def cut_idx(folder: Path) -> Path:
    file = gray_idx(folder) / "images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    return file.parent


def half_labeled_idx(folder: Path) -> Path:
    idx("train-")(draw("L"), folder / "set")
    return idx_file(folder / "set/t10k-images-idx3-ubyte", draw("L", count=15).pixels).parent


LABELS = np.arange(60) % 3
ARRAYS: list[tuple[str, Build, str]] = [
    ("a truncated npz", cut(npz_with(images=draw("L").pixels, labels=LABELS), 0.5), "set.npz"),
    ("pickled objects", objects, "set.npz"),
    ("a pickle", pickled, "set.npz"),
    ("an array file", lambda folder: write(folder / "set.npz", b"\x93NUMPY\1\0v\0{}"), "set.npz"),
    ("an npz bomb", npz_bomb, f"{3 << 30:,}"),
    ("other arrays", npz_with(pictures=draw("L").pixels, y=LABELS), "pictures uint8 (60, 20, 20)"),
    ("NaN", npz_with(images=with_value(np.nan), labels=LABELS), "NaN"),
    ("infinity", npz_with(images=with_value(np.inf), labels=LABELS), "1 values"),
    ("floats from 0 to 7.5", npz_with(images=pixels(high=7.5), labels=LABELS), "7.5"),
    ("floats from -3 to 1", npz_with(images=pixels(low=-3), labels=LABELS), "-3"),
    ("floats from 0 to 0.1", npz_with(images=pixels(high=0.1), labels=LABELS), "0.1"),
    ("integers of 16 bits", npz_with(images=pixels(np.uint16, high=60000), labels=LABELS), "uint16"),
    ("negative integers", npz_with(images=pixels(np.int16, low=-5, high=255), labels=LABELS), "-5"),
    ("text", npz_with(images=np.full((60, 20, 20), "x"), labels=LABELS), "images"),
    ("two channels", npz_with(images=np.zeros((60, 20, 20, 2), np.uint8), labels=LABELS), "(60, 20, 20, 2)"),
    ("flat images", npz_with(images=np.zeros((60, 400), np.uint8), labels=LABELS), "(60, 400)"),
    ("no images", npz_with(images=np.zeros((0, 20, 20), np.uint8), labels=LABELS[:0]), "(0, 20, 20)"),
    ("too few labels", npz_with(images=draw("L").pixels, labels=LABELS[:59]), "labels"),
    ("one-hot labels", npz_with(images=draw("L").pixels, labels=np.eye(3)[LABELS]), "(60, 3)"),
    ("float labels", npz_with(images=draw("L").pixels, labels=LABELS / 2), "float64"),
    ("sizes that differ", npz_with(x_train=draw("L").pixels, x_test=draw("L", side=24).pixels), "(24, 24)"),
    (
        "labels for one split alone",
        npz_with(x_train=draw("L").pixels, y_train=LABELS, x_test=draw("L").pixels),
        "labels",
    ),
    ("too few labels in IDX", lambda folder: gray_idx(folder, labels=59), "labels-idx1-ubyte"),
    ("a truncated IDX file", cut_idx, "images-idx3-ubyte"),
    ("labels for one split of IDX alone", half_labeled_idx, "15 images"),
    ("IDX images with their labels beside", lambda folder: gray_idx(folder) / "images-idx3-ubyte", "labels-idx1-ubyte"),
]


@cases(ARRAYS)
def test_arrays(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


# --- tables ---


def table_with(*rows: tuple[str, ...], head: tuple[str, ...] = ("file", "label"), name: str = "labels.csv") -> Build:
    """Returns a function that writes 60 images, and a table of them and of these rows."""

    def build(folder: Path) -> Path:
        drawn = draw("L")
        flat(drawn, folder / "set")
        all_rows = [(f"{i:05}.png", drawn.name(i)) for i in range(60)]
        with (folder / "set" / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *all_rows, *rows])
        return folder / "set"

    return build


def json_with(labels: object) -> Build:
    def build(folder: Path) -> Path:
        flat(draw("L"), folder / "set")
        (folder / "set/dataset.json").write_text(json.dumps({"labels": labels}))
        return folder / "set"

    return build


def raw_table(content: bytes, name: str = "labels.csv") -> Build:
    return lambda folder: write(flat(draw("L"), folder / "set") / name, content).parent


def half_labeled_csv(folder: Path) -> Path:
    labels_csv(draw("L"), folder / "set/train")
    test = flat(draw("L", count=15), folder / "set/test")
    return write_table(test / "labels.csv", ("file", "text"), [(f"{i:05}.png", "x") for i in range(15)]).parent


ALL = [(f"{i:05}.png", i % 3) for i in range(60)]
TABLES: list[tuple[str, Build, str]] = [
    ("an absent file", table_with(("absent.png", "ape")), "absent.png"),
    ("a file outside", table_with(("../outside.png", "ape")), "outside.png"),
    ("a file from the root", table_with(("/etc/passwd", "ape")), "/etc/passwd"),
    ("a file twice", table_with(("00007.png", "bee")), "00007.png"),
    ("no file name", table_with(("", "bee")), "labels.csv"),
    ("no label in one row", table_with(("00007.png", "")), "row 62"),
    ("no column of files", table_with(head=("photo", "label")), "photo"),
    ("no rows", raw_table(b"file,label\r\n"), "labels.csv"),
    ("an empty table", raw_table(b""), "labels.csv"),
    ("not UTF-8", raw_table("file,label\r\n00000.png,b\xe4r\r\n".encode("latin-1")), "UTF-8"),
    ("no column of labels in one split", half_labeled_csv, "15 images"),
    ("absent file in metadata.csv", table_with(("absent.png", "ape"), name="metadata.csv"), "metadata.csv"),
    ("absent file in dataset.json", json_with([*ALL, ("absent.png", 1)]), "absent.png"),
    ("a file twice in dataset.json", json_with([*ALL, ("00003.png", 0)]), "00003.png"),
    ("names as labels in dataset.json", json_with([[name, "ape"] for name, _ in ALL]), "ape"),
    ("vectors as labels in dataset.json", json_with([[name, [0.0, 1.0]] for name, _ in ALL]), "[0.0, 1.0]"),
    ("a map as labels in dataset.json", json_with(dict(ALL)), "dataset.json"),
    ("no labels in dataset.json", raw_table(b'{"other": 1}', "dataset.json"), "dataset.json"),
    ("no JSON in dataset.json", raw_table(b'{"labels": [', "dataset.json"), "dataset.json"),
]  # fmt: skip


@cases(TABLES)
def test_tables(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


# --- several formats ---


def several(*writers: Callable[[Drawn, Path], Path]) -> Build:
    def build(folder: Path) -> Path:
        for writer in writers:
            writer(draw("L"), folder / "set")
        return folder / "set"

    return build


def two_npz(folder: Path) -> Path:
    npz("images", "labels")(draw("L"), folder / "set")
    (folder / "set/set.npz").rename(folder / "set/first.npz")
    return npz("images", "labels")(draw("L"), folder / "set").parent


def two_idx(folder: Path) -> Path:
    idx("letters-")(draw("L"), folder / "set")
    return idx("digits-")(draw("L"), folder / "set")


SEVERAL: list[tuple[str, Build, str]] = [
    ("labels.csv and dataset.json", several(labels_csv, dataset_json), "dataset.json"),
    ("labels.csv and metadata.csv", several(labels_csv, metadata_csv), "metadata.csv"),
    ("npz and class folders", several(npz("images", "labels"), class_folders), "set.npz"),
    ("npz and images", several(npz("images", "labels"), flat), "set.npz"),
    ("npz and IDX", several(npz("images", "labels"), idx()), "set.npz"),
    ("IDX and class folders", several(idx(), class_folders), "images-idx3-ubyte"),
    ("two .npz files", two_npz, "2 .npz"),
    ("two sets in IDX", two_idx, "letters"),
]


@cases(SEVERAL)
def test_two_formats_in_one_folder(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


# --- few images ---


def picture(folder: Path) -> Path:
    return write(folder / "one.png", draw("L", count=1).png(0))


def classes_of(*counts: int) -> Build:
    """Returns a function that writes a labels.csv with so many images of each class."""

    def build(folder: Path) -> Path:
        labels = np.repeat(np.arange(len(counts)), counts)
        return labels_csv(Drawn(draw("L", count=sum(counts)).pixels, labels, ("ape", "bee", "cat")), folder / "set")

    return build


FEW: list[tuple[str, Build, str]] = [
    ("an image", picture, "one.png"),
    ("a folder of one image", lambda folder: picture(folder / "set").parent, "set"),
    ("a ZIP archive of one image", lambda folder: pack(picture(folder / "set").parent, "zip"), "set.zip"),
    ("an empty folder", lambda folder: write(folder / "set/.hidden", b"").parent, "set"),
    ("classes of one image", classes_of(1, 1, 1), "(ape)"),
    ("one class of one image", classes_of(9, 1, 9), "(bee)"),
    ("one class of two images", classes_of(9, 9, 2), "(cat)"),
    ("an absent path", lambda folder: folder / "absent", "absent"),
]


@cases(FEW)
def test_few_images(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


def test_only_damaged_images_are_refused_even_if_they_may_be_skipped(ganctl: Ganctl, tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path / f"set/{i}.png", b"no image")
    assert_refused(ganctl, tmp_path, tmp_path / "set", "3.png", "--set", "data.skip_corrupt=true")


@pytest.mark.parametrize(("fit", "size"), [("crop", 16), ("pad", 128)])
def test_images_of_17_by_900_pixels_are_taken_and_told(fit: str, size: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(20, 900, 17), dtype=np.uint8)
    path = flat(Drawn(noise, np.zeros(20, np.int64), ()), tmp_path / "set")
    words = ("--set", f"data.fit={fit}", "--set", "data.num_workers=0", "--out", str(tmp_path / "sheet.png"))
    result = CliRunner().invoke(cli, ["inspect", str(path), "--json", *words])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["images"], facts["size"]) == (20, size)
    assert f"{size} × {size}" in facts["size_reason"]
    assert f"data.fit = {fit}" in facts["size_reason"]


# --- Parquet ---


def parquet_with(**columns: list[object]) -> Build:
    def build(folder: Path) -> Path:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table(columns), folder / "set.parquet")
        return folder / "set.parquet"

    return build


def images_as_bytes() -> list[object]:
    return [draw("L").png(i) for i in range(60)]


PARQUET: list[tuple[str, Build, str]] = [
    ("no images", parquet_with(text=["a", "b"], label=[0, 1]), "text"),
    ("paths in place of images", parquet_with(image=["1.png", "2.png"], label=[0, 1]), "image"),
    ("an absent image", parquet_with(image=[*images_as_bytes()[:9], None], label=[0, 1] * 5), "row 9"),
    ("an absent label", parquet_with(image=images_as_bytes(), label=[*range(59), None]), "label"),
    ("float labels", parquet_with(image=images_as_bytes(), label=[0.5] * 60), "0.5"),
    ("two columns of images", parquet_with(left=images_as_bytes(), right=images_as_bytes()), "left"),
    ("no rows", parquet_with(image=images_as_bytes()[:0], label=[]), "set.parquet"),
    ("a truncated file", cut(lambda folder: parquet_file(folder / "set.parquet", draw("L")), 0.5), "set.parquet"),
    ("a damaged image", parquet_with(image=[*images_as_bytes()[:59], b"x"], label=[0] * 60), "row 59"),
]


@cases(PARQUET)
def test_parquet(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


def test_parquet_without_pyarrow_names_the_package_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "set.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = CliRunner().invoke(cli, ["train", str(path)])
    assert result.exit_code == 4
    assert f"{path}: " in result.stderr
    assert "pip install 'ganctl[parquet]'" in result.stderr
    assert entries(tmp_path) == ["set.parquet"]


# --- damage anywhere ---


def packed_folder(writer: Callable[[Drawn, Path], Path]) -> Build:
    """Returns a function that writes a data set and a license into a ZIP archive."""

    def build(folder: Path) -> Path:
        writer(draw("L", count=15), folder / "set")
        write(folder / "set/LICENSE", b"CC0-1.0")
        return pack(folder / "set", "zip")

    return build


DAMAGED: dict[str, Build] = {
    "labels.csv in ZIP": packed_folder(labels_csv),
    "dataset.json in ZIP": packed_folder(dataset_json),
    "IDX in ZIP": packed_folder(idx()),
    "npz in ZIP": packed_folder(npz("images", "labels")),
    "Parquet in ZIP": packed_folder(lambda drawn, root: parquet_file(root / "set.parquet", drawn)),
    "npz": lambda folder: npz("images", "labels")(draw("L", count=15), folder / "set"),
    "Parquet": lambda folder: parquet_file(folder / "set.parquet", draw("L", count=15)),
    "tar.gz": packed("tar.gz"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_anywhere_is_refused_in_words_or_harmless(name: str, tmp_path: Path) -> None:
    path = DAMAGED[name](tmp_path)
    content = path.read_bytes()
    rng, messages = np.random.default_rng(0), list[str]()
    for number in range(60):
        damaged = bytearray(content)
        for at in rng.integers(len(content), size=1 + number % 3):
            if number % 2:  # the ends of archives list their content
                at = len(content) - 1 - at % 300
            damaged[at : at + 1 + number % 4] = rng.bytes(number % 5)
        path.write_bytes(damaged)
        settings = DataSettings.model_validate({"source": str(path), "num_workers": 0})
        try:
            load_split(settings, "train")
        except DataError as error:
            messages.append(str(error))
    assert [message for message in messages if str(path) not in message] == []
    assert len(messages) > 30


# --- the same for `inspect` ---


@cases([ARCHIVES[0], ARCHIVES[6], ARRAYS[0], ARRAYS[1], TABLES[0], SEVERAL[0], FEW[0], FEW[-1]])
def test_inspect_refuses_what_cannot_be_listed(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message, command="inspect")
