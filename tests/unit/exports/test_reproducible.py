"""The same checkpoint gives the same files and archives, whoever exports it, where and when."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ganctl.exports.export import export
from ganctl.exports.formats import EXACT_FORMS, FILES, SMALL_FORMS, get_format
from ganctl.serving.archive.mar import package
from ganctl.training.images.source import load_generator

_EXPORT = """
import sys
from pathlib import Path
from ganctl.exports.export import export
from ganctl.serving.archive.mar import package
export(Path(sys.argv[1]), out=Path(sys.argv[2]))
package(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def digests(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in map(FILES.get, EXACT_FORMS) if name
    }


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_run, out=tmp_path_factory.mktemp("first") / "export")


def test_a_copy_of_the_run_exported_by_another_process_gives_the_same_files_and_archive(
    exported: Path, small_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_run / "checkpoints", tmp_path / "elsewhere/run/checkpoints")
    (tmp_path / "cwd").mkdir()
    words = [tmp_path / "elsewhere/run", tmp_path / "other name", tmp_path / "archive"]
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "1"}
    (tmp_path / "cwd/main.py").write_text(_EXPORT)  # stack traces would name this file
    command = [sys.executable, "-W", "ignore", "main.py", *map(str, words)]
    subprocess.run(command, cwd=tmp_path / "cwd", env=environment, check=True)
    assert digests(tmp_path / "other name") == digests(exported)
    archive = package(exported, tmp_path / "mine")
    assert archive.read_bytes() == (tmp_path / "archive/digits.mar").read_bytes()


def test_a_later_export_of_the_same_process_gives_the_same_files(
    exported: Path, small_run: Path, tmp_path: Path
) -> None:
    assert digests(export(small_run, out=tmp_path / "again")) == digests(exported)


@pytest.mark.soak
@pytest.mark.parametrize("form", SMALL_FORMS)
def test_small_forms_have_the_same_bytes_each_time(form: str, small_run: Path) -> None:
    generator, _ = load_generator(small_run / "checkpoints/best.safetensors")
    assert get_format(form).write(generator, {"a": "b"}) == get_format(form).write(generator, {"a": "b"})


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=pytest.mark.soak if form in SMALL_FORMS else ()) for form in FILES]
)
def test_no_file_names_a_folder_of_this_machine(form: str, small_run: Path) -> None:
    generator, _ = load_generator(small_run / "checkpoints/best.safetensors")
    content = get_format(form).write(generator, {})
    for folder in (
        Path(__file__).parents[3],
        Path(sys.prefix),
        Path.home() if Path.home() != Path("/") else Path.cwd(),
    ):
        assert str(folder).encode() not in content
    assert b"site-packages" not in content
    assert b"test_reproducible" not in content


def test_an_archive_has_neither_measurements_nor_other_files_of_the_export(exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(package(exported, tmp_path)) as archive:
        manifest = archive.read("manifest.json").decode()
    assert "parity" not in manifest
    assert "card.md" not in manifest
    assert '"generator.onnx"' in manifest
