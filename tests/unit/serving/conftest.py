"""Small exports, archives and loaded services for the unit tests of serving."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ganctl.serving.archive.mar import BackendName, package
from ganctl.serving.handler.service import Service
from tests.unit.serving.service_calls import load_service
from tests.unit.serving.small_export import write_export


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional export with gray images; read-only."""
    return write_export(tmp_path_factory.mktemp("conditional") / "export")


@pytest.fixture(scope="session")
def packed(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of that export; read-only."""
    return package(export, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Service]:
    """load(backend="onnx", conditional=True, channels=1, **limits) → a service of a new export."""

    def load(backend: BackendName = "onnx", conditional: bool = True, channels: int = 1, **limits: int) -> Service:
        return load_service(write_export(tmp_path_factory.mktemp("export"), conditional, channels), backend, **limits)

    return load


@pytest.fixture(scope="session")
def service(load: Callable[..., Service]) -> Service:
    """The service of a conditional generator of gray images, in ONNX Runtime."""
    return load()
