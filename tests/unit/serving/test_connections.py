"""Clients reach loopback directly, and others by the environment's proxies; what a variable breaks is told by name."""

import asyncio
import base64
import importlib.util
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from ganctl.main import cli
from ganctl.serving.client.client import AsyncClient, Client
from ganctl.serving.errors import RemoteError
from tests.waiting import PATIENCE

REMOTE = "http://example.invalid"  # a name that nobody has
NOBODY = "http://127.0.0.1:1"  # nobody listens there


class Recorder:
    """A server that draws one black image for every request, and keeps what was asked for.

    A proxy is asked for whole URLs, a server for paths.
    """

    def __init__(self, family: socket.AddressFamily) -> None:
        picture = io.BytesIO()
        Image.new("L", (28, 28)).save(picture, "PNG")
        png = base64.b64encode(picture.getvalue()).decode()
        body = json.dumps({"seed": 1, "images": [{"label": 0, "png": png}]}).encode()
        asked: list[str] = []
        self.asked = asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append(self.path)
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_CONNECT(self) -> None:
                asked.append(f"CONNECT {self.path}")
                self.send_error(403)

            def log_message(self, *args: Any) -> None:
                """Quiet: the test's own output is enough."""

        class Server(ThreadingHTTPServer):
            address_family = family

        self.server = Server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def recorder(family: socket.AddressFamily) -> Iterator[Recorder]:
    recorder = Recorder(family)
    yield recorder
    recorder.server.shutdown()
    recorder.server.server_close()


@pytest.fixture
def server() -> Iterator[Recorder]:
    yield from recorder(socket.AF_INET)


@pytest.fixture
def server6() -> Iterator[Recorder]:
    try:
        yield from recorder(socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 ({error})")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies and certificates."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


HOSTILE = {
    "a proxy where nobody listens": {"http_proxy": NOBODY, "https_proxy": NOBODY},
    "SOCKS for all": {"ALL_PROXY": "socks5://127.0.0.1:1"},
    "no proxies at all": {"http_proxy": "http://", "all_proxy": "foo://x:y"},
    "exceptions that httpx cannot read": {"http_proxy": NOBODY, "NO_PROXY": "::1,[fe80::]/10,*:x"},
    "certificates that are absent": {"SSL_CERT_FILE": "/nonexistent", "SSL_CERT_DIR": "/nonexistent"},
    "a log that cannot be written": {"SSLKEYLOGFILE": "/nonexistent/keys"},
}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "127.1", "0.0.0.0"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_loopback_is_asked_whatever_the_environment_says(
    kind: str, host: str, server: Recorder, bare: pytest.MonkeyPatch
) -> None:
    for name, value in HOSTILE[kind].items():
        bare.setenv(name, value)
    with Client(f"http://{host}:{server.port}") as client:
        assert client.sample().seed == 1
    assert server.asked == ["/predictions/digits"]


@pytest.mark.parametrize("host", ["[::1]", "[0:0:0:0:0:0:0:1]", "[::]"])
def test_loopback_of_ipv6_is_asked_directly(host: str, server6: Recorder, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("http_proxy", NOBODY)
    with Client(f"http://{host}:{server6.port}") as client:
        assert client.sample().seed == 1
    assert server6.asked == ["/predictions/digits"]


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}", "http://user:word@127.0.0.1:{}/"])
def test_a_remote_server_is_asked_through_the_proxy(
    variable: str, form: str, server: Recorder, bare: pytest.MonkeyPatch
) -> None:
    bare.setenv(variable, form.format(server.port))
    with Client(REMOTE) as client:
        assert client.sample().seed == 1
    assert server.asked == [f"{REMOTE}/predictions/digits"]


async def seed_of(url: str) -> int:
    async with AsyncClient(url) as client:
        return (await client.sample()).seed


def test_the_asynchronous_client_goes_the_same_ways(server: Recorder, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    for url in (REMOTE, f"http://127.0.0.1:{server.port}"):
        assert asyncio.run(seed_of(url)) == 1
    assert server.asked == [f"{REMOTE}/predictions/digits", "/predictions/digits"]


def test_the_proxy_of_a_scheme_comes_before_that_of_all(server: Recorder, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    bare.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with Client(REMOTE) as client:
        assert client.sample().seed == 1


@pytest.mark.parametrize(
    ("no_proxy", "excepted"),
    [
        ("*", True),
        ("example.invalid", True),
        ("a.b, Example.INVALID", True),
        ("a.b example.invalid", True),
        (".invalid", True),
        ("*.invalid", True),
        ("invalid", True),
        ("example.invalid:80", True),
        ("example.invalid:81", False),
        ("ample.invalid", False),
        ("www.example.invalid", False),
        ("10.0.0.0/8,::1", False),
        (",", False),
        ("", False),
    ],
)
def test_no_proxy_excepts_hosts(no_proxy: str, excepted: bool, server: Recorder, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    bare.setenv("NO_PROXY", no_proxy)
    with Client(REMOTE, timeout=PATIENCE) as client:
        if not excepted:
            assert client.sample().seed == 1
            return
        with pytest.raises(RemoteError, match="no reply") as caught:
            client.sample()
    assert "proxy" not in str(caught.value)
    assert server.asked == []


@pytest.mark.parametrize("no_proxy", ["198.51.100.0/24", "198.51.100.7", "198.51.100.7:9"])
def test_no_proxy_excepts_networks(no_proxy: str, server: Recorder, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    url = "http://198.51.100.7:9"  # of a network for documents
    with Client(url) as client:
        client.sample()
    assert len(server.asked) == 1
    bare.setenv("NO_PROXY", no_proxy)
    with Client(url, timeout=0.5) as client, pytest.raises(RemoteError):
        client.sample()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("variables", "url", "told"),
    [
        ({"http_proxy": NOBODY}, REMOTE, f"The request used the proxy http_proxy={NOBODY};"),
        ({"HTTPS_PROXY": NOBODY}, "https://example.invalid", f"The request used the proxy HTTPS_PROXY={NOBODY};"),
        ({"http_proxy": "http://me:secret@127.0.0.1:1"}, REMOTE, "http_proxy=http://***@127.0.0.1:1"),
        ({"http_proxy": "me:secret@127.0.0.1:1"}, REMOTE, "http_proxy=***@127.0.0.1:1"),
        ({"http_proxy": "http://me:sec/ret@secret@127.0.0.1:1"}, REMOTE, "http_proxy=http://***@127.0.0.1:1"),
        ({"http_proxy": "http://me:secret/x@127.0.0.1:1"}, REMOTE, "http_proxy=http://***@127.0.0.1:1"),
        ({"ALL_PROXY": "socks4://127.0.0.1:1"}, REMOTE, "ALL_PROXY=socks4://127.0.0.1:1: found no proxy address"),
        ({"http_proxy": "http://"}, REMOTE, "http_proxy=http://: found no proxy address (it has no host)"),
        ({"http_proxy": "http://127.0.0.1:x"}, REMOTE, "http_proxy=http://127.0.0.1:x: found no proxy address"),
        ({"SSL_CERT_FILE": "/nonexistent"}, "https://example.invalid", "SSL_CERT_FILE=/nonexistent: cannot be used"),
        ({"SSL_CERT_FILE": __file__}, "https://example.invalid", f"SSL_CERT_FILE={__file__}: cannot be used"),
        ({"SSL_CERT_DIR": "/nonexistent"}, "https://example.invalid", "SSL_CERT_DIR=/nonexistent: cannot be used"),
        ({"SSLKEYLOGFILE": "/nonexistent/x"}, "https://example.invalid", "SSLKEYLOGFILE=/nonexistent/x: cannot be"),
    ],
)
def test_what_a_variable_breaks_is_told_with_its_name(
    variables: dict[str, str], url: str, told: str, bare: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        bare.setenv(name, value)
    done = CliRunner().invoke(cli, ["sample", url, "--out", "x.png"])
    assert done.exit_code == 6, done.output
    assert told in done.output
    assert "secret" not in done.output
    assert "Traceback" not in done.output


def test_a_socks_proxy_without_its_package_is_told(bare: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("socksio") is not None:
        pytest.skip("the package socksio is installed")
    bare.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(RemoteError, match=r"ALL_PROXY=socks5://127\.0\.0\.1:1: .*Run `pip install socksio`"):
        Client(REMOTE)


def test_a_proxy_that_refuses_is_told(server: Recorder, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
    told = re.escape(f"The request used the proxy https_proxy=http://127.0.0.1:{server.port};")
    with Client("https://example.invalid") as client, pytest.raises(RemoteError, match=told):
        client.sample()
    assert server.asked == ["CONNECT example.invalid:443"], "asked once: a refusal is no busy server"


@pytest.mark.parametrize("url", ["http://[::1", "http://", "http://127.0.0.1:99999", "https:///x", "http://host:port"])
def test_what_is_no_url_is_told(url: str) -> None:
    done = CliRunner().invoke(cli, ["sample", url, "--out", "x.png"])
    assert done.exit_code == 6, done.output
    assert f"{url}: is not the address of a server" in done.output


@pytest.mark.parametrize("source", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "http:/127.0.0.1:8080"])
@pytest.mark.parametrize("command", ["sample", "evaluate", "deploy", "inspect"])
def test_an_address_without_its_scheme_is_told_with_the_url(command: str, source: str) -> None:
    words = ["--out", "x.png"] if command == "sample" else []
    done = CliRunner().invoke(cli, [command, source, *words])
    assert done.exit_code == 2, done.output
    assert f"http://{source.removeprefix('http:/')}" in done.output
