"""Passwords in addresses reach neither the files of a run nor its messages nor a tracker."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from ganctl.common.redaction import redact
from ganctl.training.errors import ConfigError
from tests.conftest import launch
from tests.unit.training.tracker_records import use_local_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the trackers' own dependencies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET http://alice:SECRET@host:5000/api failed", "GET http://***@host:5000/api failed"),
        ("postgresql://u:SE/CRET@host/db", "postgresql://***@host/db"),
        ("'https://u:SEC@RET@host'", "'https://***@host'"),
        ("https://TOKEN@github.com/a/b.git", "https://***@github.com/a/b.git"),
        ("http://host/a, mail me@there", "http://host/a, mail me@there"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_users_and_passwords_of_addresses_are_removed(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_a_password_of_the_tracking_address_is_not_written_by_a_failed_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store("mlflow", tmp_path, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:SECRET@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError) as error:
        launch(tmp_path / "run").build(callbacks=["mlflow"]).fit()
    assert "127.0.0.1" in str(error.value)
    assert "SECRET" not in str(error.value)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert "127.0.0.1" in (tmp_path / "run/log.txt").read_text()
    assert not [path for path in files if b"SECRET" in path.read_bytes()]


def test_a_password_of_the_repository_is_not_sent_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_local_store("mlflow", tmp_path, monkeypatch)
    from mlflow.tracking.context import registry

    def tags(ours: Mapping[str, str]) -> dict[str, str]:
        return {**ours, "mlflow.source.git.repoURL": "https://alice:SECRET@host/repository.git"}

    monkeypatch.setattr(registry, "resolve_tags", tags)
    monkeypatch.chdir(tmp_path)
    launch(tmp_path / "run").build(callbacks=["mlflow"], max_steps=1).fit()
    assert b"host/repository.git" in (tmp_path / "mlflow.db").read_bytes()
    assert b"SECRET" not in (tmp_path / "mlflow.db").read_bytes()
