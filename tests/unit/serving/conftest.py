"""Small exports and loaded services for the unit tests of serving."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ganctl.serving.archive.mar import _MODEL_FILES, BackendName
from ganctl.serving.handler.service import Service
from tests.unit.serving.small_export import write_export


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional export, grey; not to be changed."""
    return write_export(tmp_path_factory.mktemp("conditional") / "export")


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Service]:
    """load(backend="onnx", conditional=True, channels=1, **limits) → a service, as a worker would load it."""

    def load(backend: BackendName = "onnx", conditional: bool = True, channels: int = 1, **limits: int) -> Service:
        folder = write_export(tmp_path_factory.mktemp("export"), conditional, channels)
        return Service.load(folder, {"backend": backend, "model_file": _MODEL_FILES[backend], **limits})

    return load


@pytest.fixture(scope="session")
def service(load: Callable[..., Service]) -> Service:
    """The conditional, grey generator behind ONNX Runtime."""
    return load()
