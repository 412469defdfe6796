"""Requests of strangers, other users of the machine and web pages can only generate images.

docs/security.md says which weakness of TorchServe each test is about.
"""

import contextlib
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ganctl.serving.archive.mar import package
from tests import http
from tests.integration.serving.conftest import Running, finish, start_ganctl
from tests.integration.serving.doors import DRAWING, private, status
from tests.integration.serving.wire import Wire
from tests.unit.serving.archives import rewrite

TOO_MUCH = 1_048_577  # bytes of a body; one less is let in
LAST = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def unpacked(running: Running) -> set[Path]:
    """Everything in the private folder but the workers' sockets, which are made anew with every worker."""
    return {path for path in private(running).rglob("*") if not path.is_socket() and "__pycache__" not in path.parts}


@pytest.mark.parametrize("api", ["models", "workflows"])
def test_no_address_is_fetched_and_no_file_taken_in(served: Running, tmp_path: Path, api: str) -> None:
    store, evil = private(served) / "store", tmp_path / "evil.war"
    evil.write_bytes(next(store.glob("*.mar")).read_bytes())
    climbing = os.path.relpath(evil, store)
    before = unpacked(served)
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
            asked: tuple[dict[str, Any], ...] = (
                {"params": {"url": url}},
                {"json": {"url": url}},
                {"params": {"url": url, "s3_sse_kms": "true"}},
            )
            for request in asked:
                assert status("POST", f"{served.record['management_url']}/{api}", **request) >= 400, url
                assert unpacked(served) == before, url
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert http.get(f"{served.record['management_url']}/workflows").json()["workflows"] == []


@pytest.mark.parametrize("path", ["/models/digits", "/models/digits/1.0"])
def test_the_model_cannot_be_removed(served: Running, path: str) -> None:
    assert status("DELETE", f"{served.record['management_url']}{path}") == 405
    assert status("GET", f"{served.url}/predictions/digits") == 200


@pytest.mark.parametrize("path", ["/models", "/models/digits", "/workflows", "/token", "/metrics", "/wfpredict/digits"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_the_inference_port_answers_for_nothing_else(served: Running, method: str, path: str) -> None:
    assert status(method, served.url + path) == 404


@pytest.mark.parametrize("path", DRAWING)
def test_every_path_that_draws_has_the_same_limits(served: Running, path: str) -> None:
    for fields, expected in (({"count": 1}, 200), ({"count": 257}, 400), ({"count": 256, "scale": 16}, 413)):
        reply = http.post(served.url + path, json=fields)
        assert reply.status_code == expected, reply.text[:300]


def test_a_description_that_the_handler_does_not_know_hurts_no_worker(served: Running) -> None:
    url = f"{served.record['management_url']}/models/digits"
    before = {worker["pid"] for worker in http.get(url).json()[0]["workers"]}
    assert status("GET", f"{url}?customized=true") == 200
    assert {worker["pid"] for worker in http.get(url).json()[0]["workers"]} == before


def test_pages_from_elsewhere_may_neither_read_replies_nor_send_more_than_forms(served: Running) -> None:
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
        (b"Content-Length: %d\r\n" % TOO_MUCH, [b"413", b"404"]),  # all of that body is passed over: then comes LAST
        (b"Content-Length: 10\r\nX: " + b"x" * 9_000 + b"\r\n", [b"400"]),
    ],
)
def test_a_request_of_doubtful_or_great_length_is_refused_and_nothing_after_it_is_read(
    served: Running, headers: bytes, expected: list[bytes]
) -> None:
    smuggled = b'{"seed":1}GET /predictions/digits HTTP/1.1\r\nHost: x\r\n\r\n'
    smuggled += b" " * (TOO_MUCH - len(smuggled))
    head = b"POST /predictions/digits HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    replies = b""
    with Wire(served.url) as wire:
        with contextlib.suppress(ConnectionError):  # it was closed before all was sent
            wire.send(head + headers + b"\r\n" + smuggled + LAST)
        with contextlib.suppress(ConnectionError):
            while part := wire.socket.recv(65_536):
                replies += part
    assert re.findall(rb"HTTP/1\.1 (\d+)", replies) == expected


def refusal(mar: Path, *flags: str) -> str:
    """What `ganctl serve` says to an archive that it does not serve."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as temporary:
        process = start_ganctl("serve", str(mar), "--port", "0", *flags, temporary=Path(temporary))
        out, told = finish(process)
        assert list(Path(temporary).iterdir()) == []
    assert (process.returncode, out) == (6, "")
    return told


def test_an_archive_with_other_code_than_was_packed_is_not_served(export: Path, tmp_path: Path) -> None:
    mar = package(export, tmp_path)
    changed = rewrite(mar, {"ganctl_handler/service.py": b"print('evil')"}, sealed=False)
    assert "ganctl_handler/service.py in it is not the file that was packed" in refusal(changed)
    changed = rewrite(mar, {"ganctl_handler/service.py": b"print('evil')"}, sealed=True)
    assert f"{changed} is another file, whose SHA-256 is" in refusal(changed, "--sha256", "0" * 64)
