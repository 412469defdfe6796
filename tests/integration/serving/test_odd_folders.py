"""A server works with any path of its temporary files, archive and access log."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from ganctl.serving.archive.mar import package
from tests import http
from tests.integration.serving.conftest import Engine, finish, running, start_ganctl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and file names of arbitrary bytes")

ODD = "é 日本 #1 %41 & \"q\" 'p' \\n $x {0}"
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def deploy(mar: Path, url: str, temporary: Path) -> dict[str, str]:
    process = start_ganctl("deploy", str(mar), "--port", url.rpartition(":")[2], "--json", temporary=temporary)
    out, err = finish(process)
    assert process.returncode == 0, err
    record: dict[str, str] = json.loads(out)
    return record


@pytest.mark.soak_on_torchserve
def test_serve_and_deploy_work_with_any_path_and_locale(
    engine: Engine, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ODD
    temporary = folder / ("deep" * 30)  # longer than the path of a Unix socket may be
    temporary.mkdir(parents=True)
    mar = package(shutil.copytree(export, folder / "export"), folder)
    for name, value in ASCII_LOCALE.items():
        monkeypatch.setenv(name, value)
    with running(mar, temporary, "--access-log", str(folder / "log"), engine=engine) as server:
        assert http.get(f"{server.url}/predictions/digits").status_code == 200
        assert set(deploy(mar, server.url, temporary)) == {"model_version", "previous"}
        assert http.get(f"{server.url}/predictions/digits").status_code == 200
        assert http.get(server.record["metrics_url"]).status_code == 200
        assert http.get(f"{server.record['management_url']}/models/digits").status_code == 200
        logged = "".join(path.read_text("utf-8") for path in (folder / "log").iterdir())
        assert json.loads(logged.splitlines()[0])["status"] == 200
        assert any(temporary.iterdir()), "the server's files are in TMPDIR"
    assert list(temporary.iterdir()) == []


@pytest.mark.soak_on_torchserve
def test_deploy_works_if_the_temporary_folder_is_a_symbolic_link(engine: Engine, export: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with running(export, tmp_path / "link", engine=engine) as server:
        deploy(package(export, tmp_path), server.url, tmp_path / "link")


def test_a_temporary_folder_that_is_not_utf_8_is_refused_with_the_remedy(export: Path, tmp_path: Path) -> None:
    temporary = Path(os.fsdecode(bytes(tmp_path) + b"/latin-\xe9"))
    temporary.mkdir()
    process = start_ganctl("serve", str(export), "--port", "0", temporary=temporary)
    _, err = finish(process)
    assert process.returncode == 6
    assert re.search(rf"{re.escape(str(tmp_path))}/latin-.*UTF-8.*\bTMPDIR\b", err), err
    assert list(temporary.iterdir()) == []
