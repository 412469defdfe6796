"""Fixtures of the tests that simulate file system errors and signals."""

from pathlib import Path

import pytest

from ganctl.exports.export import export
from tests import refusing


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes system calls fail; see tests/refusing.py."""
    return refusing.build(tmp_path_factory.mktemp("refusing"))


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX export of a small run, alone in its parent folder."""
    return export(small_run, out=tmp_path_factory.mktemp("exported") / "export", formats=["onnx"])
