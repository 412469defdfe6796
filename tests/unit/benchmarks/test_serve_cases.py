"""All servers get the same requests, and one reply of each kind is checked before the measurement."""

import http.server
import io
import json
import threading
from collections.abc import Iterator

import pytest
from PIL import Image

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.serving.cases import Case, cases


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "PNG")
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    status, body = 200, b""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/digits"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_required_cases_are_present() -> None:
    present = cases()
    for kind in ("GET", "POST"):
        assert [case.connections for case in present if case.kind == kind] == [1, 16, 64, 128]
    assert Case("grid", 16) in present
    assert len(set(present)) == len(present)


def test_get_has_no_body_and_post_cycles_through_the_digits() -> None:
    (get,) = Case("GET", 1).requests("/p")
    assert get.startswith(b"GET /p HTTP/1.1\r\n")
    assert get.endswith(b"\r\n\r\n")
    assert b"Content-Length" not in get
    posts = Case("POST", 1).requests("/p")
    assert [json.loads(post.partition(b"\r\n\r\n")[2]) for post in posts] == [{"digits": d} for d in range(10)]
    assert b"Accept: application/json\r\n" in Case("JSON", 1).requests("/p")[0]
    (grid,) = Case("grid", 1).requests("/p")
    assert grid.endswith(b'{"count": 64}')
    assert Case("grid", 1).images == 64


@pytest.mark.parametrize(
    ("kind", "body"),
    [("GET", png(28)), ("POST", png(28)), ("grid", png(8 * 28)), ("JSON", b'{"images": [{"png": ""}]}')],
    ids=["GET", "POST", "grid", "JSON"],
)
def test_valid_replies_pass(url: str, kind: str, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "body", body)
    Case(kind, 1).check(url)


@pytest.mark.parametrize(
    ("kind", "status", "body", "facts"),
    [
        ("GET", 503, b"busy", r"\b503\b.*\b200\b.*\bbusy\b"),
        ("grid", 200, png(28), r"PNG, \(28, 28\).*PNG.* 224 × 224"),
        ("JSON", 200, png(28), "JSON.*PNG"),
        ("JSON", 200, b'{"images": []}', r'JSON.*\{"images": \[\]\}'),
    ],
    ids=["refused", "too small", "not JSON", "no image"],
)
def test_invalid_replies_are_errors_with_the_kind_and_the_url(
    url: str, kind: str, status: int, body: bytes, facts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "status", status)
    monkeypatch.setattr(Handler, "body", body)
    with pytest.raises(BenchError, match=f"{kind} {url}: .*{facts}"):
        Case(kind, 1).check(url)
