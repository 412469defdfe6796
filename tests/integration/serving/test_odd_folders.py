"""A server works with any path of its temporary files, archive and log."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ganctl.serving.archive.mar import package
from tests import http
from tests.integration.serving.conftest import finish, running, start_ganctl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and names of any bytes")

ODD = "é 日本 #1 %41 & \"q\" 'p' \\n $x {0}"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def deploy(mar: Path, url: str, temporary: Path) -> dict[str, str]:
    process = start_ganctl("deploy", str(mar), "--port", url.rpartition(":")[2], "--json", temporary=temporary)
    out, err = finish(process)
    assert process.returncode == 0, err
    answer: dict[str, str] = json.loads(out)
    return answer


def test_any_characters_any_length_and_any_locale(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ODD
    temporary = place / ("deep" * 30)  # longer than the path of a socket may be
    temporary.mkdir(parents=True)
    mar = package(shutil.copytree(export, place / "export"), place)
    for name, value in ASCII.items():
        monkeypatch.setenv(name, value)
    with running(mar, temporary, "--access-log", str(place / "log")) as server:
        assert http.get(f"{server.url}/predictions/digits").status_code == 200
        assert set(deploy(mar, server.url, temporary)) == {"model_version", "previous"}
        assert http.get(f"{server.url}/predictions/digits").status_code == 200
        assert http.get(server.record["metrics_url"]).status_code == 200
        assert http.get(f"{server.record['management_url']}/models/digits").status_code == 200
        logged = "".join(path.read_text("utf-8") for path in (place / "log").iterdir())
        assert json.loads(logged.splitlines()[0])["status"] == 200
        assert any(temporary.iterdir()), "the server's files lie in TMPDIR, and not elsewhere"
    assert list(temporary.iterdir()) == []


def test_versions_change_where_the_temporary_folder_is_a_link(export: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with running(export, tmp_path / "link") as server:
        deploy(package(export, tmp_path), server.url, tmp_path / "link")


def test_a_folder_that_java_cannot_open_is_told(export: Path, tmp_path: Path) -> None:
    temporary = Path(os.fsdecode(bytes(tmp_path) + b"/latin-\xe9"))
    temporary.mkdir()
    process = start_ganctl("serve", str(export), "--port", "0", temporary=temporary)
    _, err = finish(process)
    assert process.returncode == 6
    assert "found bytes that are not UTF-8" in err
    assert "Set TMPDIR" in err
    assert list(temporary.iterdir()) == []
