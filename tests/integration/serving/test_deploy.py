"""`ganctl deploy`: a smoke test first, no failed request during the switch, and a rollback."""

import itertools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.errors import DeployError, PackageError
from ganctl.serving.hosts.torchserve.server import Server
from tests import http
from tests.integration.serving.conftest import Running, finish, members, start_ganctl
from tests.integration.serving.repeated import repeated
from tests.unit.serving.small_export import entry, write_export
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two versions that answer the same request with other bytes, and one that cannot be loaded."""
    folder = tmp_path_factory.mktemp("versions")
    made = []
    for number, version in enumerate(("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")):
        export = write_export(folder / str(number))
        manifest = json.loads((export / "manifest.json").read_text())
        manifest["model_version"] = version
        if number == 2:
            broken = b"no ONNX at all"
            (export / "generator.onnx").write_bytes(broken)
            manifest["files"]["generator.onnx"] = entry(broken)
        (export / "manifest.json").write_text(json.dumps(manifest))
        made.append(package(export, folder / f"out{number}"))
    return made


@pytest.fixture
def server(archives: list[Path]) -> Iterator[Server]:
    with Server(archives[0], port=0, workers=2) as server:
        yield server


def version(server: Server) -> str:
    return str(http.get(f"{server.url}/predictions/digits").headers["x-model-version"])


def test_no_request_fails_while_versions_change_under_load(server: Server, archives: list[Path]) -> None:
    statuses: Counter[int] = Counter()

    def client() -> Callable[[], None]:
        connection, digits = http.Client(base_url=server.url), itertools.cycle(range(10))

        def ask() -> None:
            statuses[connection.post("/predictions/digits", json={"digits": next(digits)}).status_code] += 1

        return ask

    with repeated(16, client) as asking:
        asking.wait_for_more(5)
        for archive, expected in ((archives[1], "bbbbbbbbbbbb"), (archives[0], "aaaaaaaaaaaa")):
            assert server.deploy(archive)["model_version"] == expected
            assert {version(server) for _ in range(20)} == {expected}, "no worker has stayed behind"
            asking.wait_for_more(5)
        assert server.roll_back() == {"model_version": "bbbbbbbbbbbb", "previous": "aaaaaaaaaaaa"}
        asking.wait_for_more(5)
    assert set(statuses) == {200}


def test_a_version_that_cannot_draw_never_reaches_a_worker(server: Server, archives: list[Path]) -> None:
    workers = set(members(server.pid))
    with pytest.raises(DeployError, match="failed its smoke test") as caught:
        server.deploy(archives[2])
    assert "INVALID_PROTOBUF" in str(caught.value) or "InvalidProtobuf" in str(caught.value)
    assert version(server) == "aaaaaaaaaaaa"
    assert set(members(server.pid)) == workers


def test_a_damaged_archive_changes_nothing(server: Server, archives: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "digits.mar"
    cut.write_bytes(archives[1].read_bytes()[:2000])
    with pytest.raises(PackageError, match=r"digits\.mar"):
        server.deploy(cut)
    with pytest.raises(PackageError, match="--sha256"):
        server.deploy(archives[1], sha256="0" * 64)
    assert version(server) == "aaaaaaaaaaaa"


def test_there_is_no_way_back_before_there_was_a_way_on(server: Server) -> None:
    with pytest.raises(DeployError, match="no previous version"):
        server.roll_back()


def test_a_worker_that_starts_anew_serves_the_new_version(server: Server, archives: list[Path]) -> None:
    server.deploy(archives[1])
    victims = [pid for pid in members(server.pid) if pid != server.pid]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    replies = []

    def served() -> bool:
        replies.append(http.get(f"{server.url}/predictions/digits"))
        return replies[-1].status_code == 200

    wait_for(served, "a worker has come back")
    assert replies[-1].headers["x-model-version"] == "bbbbbbbbbbbb"


def test_of_the_old_versions_only_the_one_before_is_kept(server: Server, archives: list[Path]) -> None:
    for archive in (archives[1], archives[0], archives[1]):
        server.deploy(archive)
    assert len(list((server.folder.path / "versions").iterdir())) == 2


def test_the_command_deploys_into_the_server_of_a_port_and_takes_it_back(
    served: Running, archives: list[Path], tmp_path: Path
) -> None:
    port = served.url.rpartition(":")[2]
    before = http.get(f"{served.url}/predictions/digits").headers["x-model-version"]

    def deploy(*words: str) -> tuple[int, str, str]:
        process = start_ganctl("deploy", *words, "--port", port, "--json", temporary=tmp_path)
        out, err = finish(process)
        return process.returncode, out, err

    code, out, err = deploy(str(archives[1]))
    assert (code, json.loads(out)) == (0, {"model_version": "bbbbbbbbbbbb", "previous": before}), err
    assert http.get(f"{served.url}/predictions/digits").headers["x-model-version"] == "bbbbbbbbbbbb"
    code, _, err = deploy(str(archives[2]))
    assert code == 5
    assert "failed its smoke test" in err
    code, out, _ = deploy("--rollback")
    assert (code, json.loads(out)["model_version"]) == (0, before)
    assert http.get(f"{served.url}/predictions/digits").headers["x-model-version"] == before
    code, _, err = deploy("--rollback", str(archives[1]))
    assert code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_port_without_a_server_is_told(archives: list[Path], tmp_path: Path) -> None:
    process = start_ganctl("deploy", str(archives[0]), "--port", "9", temporary=tmp_path)
    _, err = finish(process)
    assert process.returncode == 6
    assert "--port 9: no `ganctl serve` of this user" in err
