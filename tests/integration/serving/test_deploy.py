"""`ganctl deploy`: a smoke test first, no failed request during the switch, and a rollback."""

import contextlib
import itertools
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.errors import DeployError, PackageError
from ganctl.serving.hosts.native.server import Server as NativeServer
from ganctl.serving.hosts.torchserve.server import Server as TorchServeServer
from tests import http
from tests.integration.serving.conftest import Engine, Running, finish, members, start_ganctl
from tests.integration.serving.repeated import repeated
from tests.unit.serving.small_export import entry, write_export
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two archives that differ in their version only, and one whose ONNX file is damaged."""
    folder = tmp_path_factory.mktemp("versions")
    archives = []
    for number, version in enumerate(("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")):
        export = write_export(folder / str(number))
        manifest = json.loads((export / "manifest.json").read_text())
        manifest["model_version"] = version
        if number == 2:
            damaged = b"not an ONNX model"
            (export / "generator.onnx").write_bytes(damaged)
            manifest["files"]["generator.onnx"] = entry(damaged)
        (export / "manifest.json").write_text(json.dumps(manifest))
        archives.append(package(export, folder / f"out{number}"))
    return archives


Server = TorchServeServer | NativeServer


@pytest.fixture
def server(engine: Engine, archives: list[Path]) -> Iterator[Server]:
    server_class: type[TorchServeServer] | type[NativeServer]
    server_class = NativeServer if engine == "native" else TorchServeServer
    with server_class(archives[0], port=0, workers=2) as server:
        yield server


def workers(server: Server) -> set[int]:
    """The process ids of the workers."""
    return set(server.pids if isinstance(server, NativeServer) else members(server.pid)) - {server.pid}


def version(server: Server) -> str:
    return str(http.get(f"{server.url}/predictions/digits").headers["x-model-version"])


def test_no_request_fails_while_versions_change_under_load(server: Server, archives: list[Path]) -> None:
    statuses: Counter[int] = Counter()

    def client() -> Callable[[], None]:
        connection, digits = http.Client(base_url=server.url), itertools.cycle(range(10))

        def send() -> None:
            statuses[connection.post("/predictions/digits", json={"digits": next(digits)}).status_code] += 1

        return send

    with repeated(16, client) as clients:
        clients.wait_for_more(5)
        for archive, expected in ((archives[1], "bbbbbbbbbbbb"), (archives[0], "aaaaaaaaaaaa")):
            assert server.deploy(archive)["model_version"] == expected
            assert {version(server) for _ in range(20)} == {expected}, "every worker serves the new version"
            clients.wait_for_more(5)
        assert server.roll_back() == {"model_version": "bbbbbbbbbbbb", "previous": "aaaaaaaaaaaa"}
        clients.wait_for_more(5)
    assert set(statuses) == {200}


def test_a_version_that_fails_its_smoke_test_is_not_deployed(server: Server, archives: list[Path]) -> None:
    before = workers(server)
    with pytest.raises(DeployError, match="smoke test") as caught:
        server.deploy(archives[2])
    assert "INVALID_PROTOBUF" in str(caught.value) or "InvalidProtobuf" in str(caught.value)
    assert version(server) == "aaaaaaaaaaaa"
    assert workers(server) == before


@pytest.mark.soak_on_torchserve
def test_a_damaged_archive_changes_nothing(server: Server, archives: list[Path], tmp_path: Path) -> None:
    truncated = tmp_path / "digits.mar"
    truncated.write_bytes(archives[1].read_bytes()[:2000])
    with pytest.raises(PackageError, match=re.escape(str(truncated))):
        server.deploy(truncated)
    with pytest.raises(PackageError, match=f"--sha256 {'0' * 64}: {re.escape(str(archives[1]))}"):
        server.deploy(archives[1], sha256="0" * 64)
    assert version(server) == "aaaaaaaaaaaa"


@pytest.mark.soak_on_torchserve
def test_a_rollback_without_a_previous_version_is_refused(server: Server) -> None:
    with pytest.raises(DeployError, match="--rollback: "):
        server.roll_back()


@pytest.mark.soak_on_torchserve
def test_a_restarted_worker_serves_the_new_version(server: Server, archives: list[Path]) -> None:
    server.deploy(archives[1])
    victims = workers(server)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    replies = []

    def served() -> bool:
        with contextlib.suppress(httpx.TransportError):  # of a connection to a killed worker
            replies.append(http.get(f"{server.url}/predictions/digits"))
        return bool(replies) and replies[-1].status_code == 200

    wait_for(served, "a restarted worker answers")
    assert replies[-1].headers["x-model-version"] == "bbbbbbbbbbbb"


@pytest.mark.soak_on_torchserve
def test_only_the_active_and_the_previous_version_are_kept(server: Server, archives: list[Path]) -> None:
    for archive in (archives[1], archives[0], archives[1]):
        server.deploy(archive)
    folder = server.folder / "models/digits" if isinstance(server, NativeServer) else server.folder.path
    assert len(list((folder / "versions").iterdir())) == 2


def test_the_command_deploys_to_the_server_of_a_port_and_rolls_back(
    served: Running, archives: list[Path], tmp_path: Path
) -> None:
    port = served.url.rpartition(":")[2]
    before = http.get(f"{served.url}/predictions/digits").headers["x-model-version"]

    def deploy(*arguments: str) -> tuple[int, str, str]:
        process = start_ganctl("deploy", *arguments, "--port", port, "--json", temporary=tmp_path)
        out, err = finish(process)
        return process.returncode, out, err

    code, out, err = deploy(str(archives[1]))
    assert (code, json.loads(out)) == (0, {"model_version": "bbbbbbbbbbbb", "previous": before}), err
    assert http.get(f"{served.url}/predictions/digits").headers["x-model-version"] == "bbbbbbbbbbbb"
    code, _, err = deploy(str(archives[2]))
    assert code == 5
    assert "smoke test" in err
    code, out, _ = deploy("--rollback")
    assert (code, json.loads(out)["model_version"]) == (0, before)
    assert http.get(f"{served.url}/predictions/digits").headers["x-model-version"] == before
    code, _, err = deploy("--rollback", str(archives[1]))
    assert code == 2
    assert "--rollback" in err
    assert list(tmp_path.iterdir()) == []


def test_a_port_without_a_server_is_named_in_the_error(archives: list[Path], tmp_path: Path) -> None:
    process = start_ganctl("deploy", str(archives[0]), "--port", "9", temporary=tmp_path)
    _, err = finish(process)
    assert process.returncode == 6
    assert re.search("--port 9: .*`ganctl serve`", err), err
