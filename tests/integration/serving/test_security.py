"""Requests from strangers, other users of the machine and web pages can only generate images.

docs/security.md says which weakness of TorchServe each test is about.
"""

import contextlib
import hashlib
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from ganctl.serving.archive.mar import package
from tests import http
from tests.integration.serving.conftest import Running, finish, start_ganctl
from tests.integration.serving.doors import PREDICTION_PATHS, private_folder, status
from tests.integration.serving.wire import Wire
from tests.unit.serving.archives import rewrite

TOO_LARGE = 1_048_577  # bytes of a body; one byte less is accepted
FINAL_REQUEST = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def private_files(server: Running) -> set[Path]:
    """All paths in the private folder except the workers' sockets, which change with every worker."""
    return {
        path for path in private_folder(server).rglob("*") if not path.is_socket() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("api", ["models", "workflows"])
def test_registering_by_url_or_path_fetches_and_copies_nothing(torchserve: Running, tmp_path: Path, api: str) -> None:
    store, evil = private_folder(torchserve) / "store", tmp_path / "evil.war"
    evil.write_bytes(next(store.glob("*.mar")).read_bytes())
    climbing = os.path.relpath(evil, store)
    before = private_files(torchserve)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        for url in (
            f"http://127.0.0.1:{port}/evil.war",
            f"HTTP://127.0.0.1:{port}/evil.war",
            f"https://127.0.0.1:{port}/evil.war",
            f"ftp://127.0.0.1:{port}/evil.war",
            f"jar:http://127.0.0.1:{port}/evil.war!/",
            f"file://{evil}",
            f"file://{store}/{climbing}",
            f"file://{store}/%2e%2e/{climbing}",
            f"{store}/{climbing}",
            str(evil),
            climbing,
            "digits.mar",
            "evil.war",
            "",
        ):
            requests: tuple[dict[str, Any], ...] = (
                {"params": {"url": url}},
                {"json": {"url": url}},
                {"params": {"url": url, "s3_sse_kms": "true"}},
            )
            for request in requests:
                assert status("POST", f"{torchserve.record['management_url']}/{api}", **request) >= 400, url
                assert private_files(torchserve) == before, url
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert http.get(f"{torchserve.record['management_url']}/workflows").json()["workflows"] == []


@pytest.mark.parametrize("path", ["/models/digits", "/models/digits/1.0"])
def test_the_model_cannot_be_removed(torchserve: Running, path: str) -> None:
    assert status("DELETE", f"{torchserve.record['management_url']}{path}") == 405
    assert status("GET", f"{torchserve.url}/predictions/digits") == 200


@pytest.mark.parametrize("path", ["/models", "/models/digits", "/workflows", "/token", "/metrics", "/wfpredict/digits"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_the_inference_port_has_no_other_api(served: Running, method: str, path: str) -> None:
    assert status(method, served.url + path) == 404


@pytest.mark.parametrize("path", PREDICTION_PATHS)
def test_every_prediction_path_has_the_same_limits(torchserve: Running, path: str) -> None:
    for fields, expected in (({"count": 1}, 200), ({"count": 257}, 400), ({"count": 256, "scale": 16}, 413)):
        reply = http.post(torchserve.url + path, json=fields)
        assert reply.status_code == expected, reply.text[:300]


def test_a_customized_description_restarts_no_worker(torchserve: Running) -> None:
    url = f"{torchserve.record['management_url']}/models/digits"
    before = {worker["pid"] for worker in http.get(url).json()[0]["workers"]}
    assert status("GET", f"{url}?customized=true") == 200
    assert {worker["pid"] for worker in http.get(url).json()[0]["workers"]} == before


def test_replies_to_other_origins_have_no_cors_headers(served: Running) -> None:
    origin = {"Origin": "https://example.org", "Access-Control-Request-Method": "PUT"}
    for url in (
        f"{served.url}/predictions/digits",
        f"{served.record['management_url']}/models/digits",
        str(served.record["metrics_url"]),
    ):
        for method in ("GET", "OPTIONS"):
            reply = http.request(method, url, headers=origin)
            assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (b"Content-Length: 10\r\nContent-Length: 3\r\n", [b"400"]),
        (b"Content-Length: 10, 3\r\n", [b"400"]),
        (b"Content-Length : 10\r\n", [b"400"]),
        (b"Content-Length: %d\r\n" % TOO_LARGE, [b"413", b"404"]),  # skips this body, then answers FINAL_REQUEST
        (b"Content-Length: 10\r\nX: " + b"x" * 9_000 + b"\r\n", [b"400"]),
    ],
)
def test_a_request_of_ambiguous_or_excessive_length_smuggles_no_second_request(
    torchserve: Running, headers: bytes, expected: list[bytes]
) -> None:
    smuggled = b'{"seed":1}GET /predictions/digits HTTP/1.1\r\nHost: x\r\n\r\n'
    smuggled += b" " * (TOO_LARGE - len(smuggled))
    head = b"POST /predictions/digits HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    replies = b""
    with Wire(torchserve.url) as wire:
        with contextlib.suppress(ConnectionError):  # the server closed the connection before all was sent
            wire.send(head + headers + b"\r\n" + smuggled + FINAL_REQUEST)
        with contextlib.suppress(ConnectionError):
            while part := wire.socket.recv(65_536):
                replies += part
    assert re.findall(rb"HTTP/1\.1 (\d+)", replies) == expected


def test_an_archive_with_other_code_than_was_packed_is_not_served(
    export: Path, tmp_path: Path, temporary: Path
) -> None:
    def message(*arguments: str) -> str:
        """The stderr of a `ganctl serve` that refuses its archive."""
        process = start_ganctl("serve", *arguments, "--port", "0", temporary=temporary)
        out, err = finish(process)
        assert list(temporary.iterdir()) == []
        assert (process.returncode, out) == (6, "")
        return err

    mar = package(export, tmp_path)
    changed = rewrite(mar, {"ganctl_handler/service.py": b"print('evil')"}, sealed=False)
    assert f"{changed}: ganctl_handler/service.py " in message(str(changed))
    changed = rewrite(mar, {"ganctl_handler/service.py": b"print('evil')"}, sealed=True)
    expected, found = "0" * 64, hashlib.sha256(changed.read_bytes()).hexdigest()
    assert re.search(
        rf"--sha256 {expected}: {re.escape(str(changed))} .*{found}", message(str(changed), "--sha256", expected)
    )
