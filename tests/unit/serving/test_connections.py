"""Clients connect to loopback directly, to other hosts by the environment's proxy; errors name the variable."""

import asyncio
import base64
import importlib.util
import io
import json
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

REMOTE = "http://example.invalid"  # a host that does not exist
CLOSED = "http://127.0.0.1:1"  # a port on which no server listens


class Recorder:
    """A server that replies with one black image and records each request's target.

    The target is a path, or the whole URL if the server is used as a proxy.
    """

    def __init__(self, family: socket.AddressFamily) -> None:
        picture = io.BytesIO()
        Image.new("L", (28, 28)).save(picture, "PNG")
        png = base64.b64encode(picture.getvalue()).decode()
        body = json.dumps({"seed": 1, "images": [{"label": 0, "png": png}]}).encode()
        targets: list[str] = []
        self.targets = targets

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                targets.append(self.path)
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_CONNECT(self) -> None:
                targets.append(f"CONNECT {self.path}")
                self.send_error(403)

            def log_message(self, *args: Any) -> None:
                pass

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
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Sets variables of an environment without proxies and certificates."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


UNUSABLE = {
    "closed proxy port": {"http_proxy": CLOSED, "https_proxy": CLOSED},
    "SOCKS proxy": {"ALL_PROXY": "socks5://127.0.0.1:1"},
    "invalid proxies": {"http_proxy": "http://", "all_proxy": "foo://x:y"},
    "NO_PROXY that httpx cannot parse": {"http_proxy": CLOSED, "NO_PROXY": "::1,[fe80::]/10,*:x"},
    "missing certificates": {"SSL_CERT_FILE": "/nonexistent", "SSL_CERT_DIR": "/nonexistent"},
    "missing folder of the key log": {"SSLKEYLOGFILE": "/nonexistent/keys"},
}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "127.1", "0.0.0.0"])
@pytest.mark.parametrize("kind", UNUSABLE)
def test_connections_to_loopback_ignore_the_environment(
    kind: str, host: str, server: Recorder, environment: pytest.MonkeyPatch
) -> None:
    for name, value in UNUSABLE[kind].items():
        environment.setenv(name, value)
    with Client(f"http://{host}:{server.port}") as client:
        assert client.sample().seed == 1
    assert server.targets == ["/predictions/digits"]


@pytest.mark.parametrize("host", ["[::1]", "[0:0:0:0:0:0:0:1]", "[::]"])
def test_connections_to_ipv6_loopback_use_no_proxy(
    host: str, server6: Recorder, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("http_proxy", CLOSED)
    with Client(f"http://{host}:{server6.port}") as client:
        assert client.sample().seed == 1
    assert server6.targets == ["/predictions/digits"]


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}", "http://user:word@127.0.0.1:{}/"])
def test_connections_to_other_hosts_use_the_proxy(
    variable: str, form: str, server: Recorder, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(variable, form.format(server.port))
    with Client(REMOTE) as client:
        assert client.sample().seed == 1
    assert server.targets == [f"{REMOTE}/predictions/digits"]


async def seed_of(url: str) -> int:
    async with AsyncClient(url) as client:
        return (await client.sample()).seed


def test_the_asynchronous_client_uses_the_same_routes(server: Recorder, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    for url in (REMOTE, f"http://127.0.0.1:{server.port}"):
        assert asyncio.run(seed_of(url)) == 1
    assert server.targets == [f"{REMOTE}/predictions/digits", "/predictions/digits"]


def test_http_proxy_takes_precedence_over_all_proxy(server: Recorder, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    environment.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with Client(REMOTE) as client:
        assert client.sample().seed == 1


@pytest.mark.parametrize(
    ("no_proxy", "excluded"),
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
def test_no_proxy_excludes_hosts(
    no_proxy: str, excluded: bool, server: Recorder, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    environment.setenv("NO_PROXY", no_proxy)
    with Client(REMOTE, timeout=PATIENCE) as client:
        if not excluded:
            assert client.sample().seed == 1
            return
        with pytest.raises(RemoteError, match=f"{REMOTE}/predictions/digits: ") as caught:
            client.sample()
    assert caught.value.status is None
    assert "proxy" not in str(caught.value)
    assert server.targets == []


@pytest.mark.parametrize("no_proxy", ["198.51.100.0/24", "198.51.100.7", "198.51.100.7:9"])
def test_no_proxy_excludes_networks_and_addresses(
    no_proxy: str, server: Recorder, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    url = "http://198.51.100.7:9"  # of a network that RFC 5737 reserves for documentation
    with Client(url) as client:
        client.sample()
    assert len(server.targets) == 1
    environment.setenv("NO_PROXY", no_proxy)
    with Client(url, timeout=0.5) as client, pytest.raises(RemoteError):
        client.sample()
    assert len(server.targets) == 1


@pytest.mark.parametrize(
    ("variables", "scheme", "shown"),
    [
        ({"http_proxy": CLOSED}, "http", f"http_proxy={CLOSED};"),
        ({"HTTPS_PROXY": CLOSED}, "https", f"HTTPS_PROXY={CLOSED};"),
        ({"http_proxy": "http://me:secret@127.0.0.1:1"}, "http", "http_proxy=http://***@127.0.0.1:1;"),
        ({"http_proxy": "me:secret@127.0.0.1:1"}, "http", "http_proxy=***@127.0.0.1:1;"),
        ({"http_proxy": "http://me:sec/ret@secret@127.0.0.1:1"}, "http", "http_proxy=http://***@127.0.0.1:1:"),
        ({"http_proxy": "http://me:secret/x@127.0.0.1:1"}, "http", "http_proxy=http://***@127.0.0.1:1:"),
        ({"ALL_PROXY": "socks4://127.0.0.1:1"}, "http", "ALL_PROXY=socks4://127.0.0.1:1:"),
        ({"http_proxy": "http://"}, "http", "http_proxy=http://:"),
        ({"http_proxy": "http://127.0.0.1:x"}, "http", "http_proxy=http://127.0.0.1:x:"),
        ({"SSL_CERT_FILE": "/nonexistent"}, "https", "SSL_CERT_FILE=/nonexistent:"),
        ({"SSL_CERT_FILE": __file__}, "https", f"SSL_CERT_FILE={__file__}:"),
        ({"SSL_CERT_DIR": "/nonexistent"}, "https", "SSL_CERT_DIR=/nonexistent:"),
        ({"SSLKEYLOGFILE": "/nonexistent/x"}, "https", "SSLKEYLOGFILE=/nonexistent/x:"),
    ],
)
def test_an_error_due_to_a_variable_names_it_and_its_value_without_passwords(
    variables: dict[str, str], scheme: str, shown: str, environment: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    done = CliRunner().invoke(cli, ["sample", f"{scheme}://example.invalid", "--out", "x.png"])
    assert done.exit_code == 6, done.output
    assert shown in done.output
    assert "secret" not in done.output
    assert "Traceback" not in done.output


def test_a_socks_proxy_without_the_package_socksio_is_an_error_with_the_install_command(
    environment: pytest.MonkeyPatch,
) -> None:
    if importlib.util.find_spec("socksio") is not None:
        pytest.skip("the package socksio is installed")
    environment.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(RemoteError, match=r"ALL_PROXY=socks5://127\.0\.0\.1:1: .*`pip install socksio`"):
        Client(REMOTE)


def test_the_refusal_of_a_proxy_is_an_error_that_names_it_without_a_retry(
    server: Recorder, environment: pytest.MonkeyPatch
) -> None:
    proxy = f"http://127.0.0.1:{server.port}"
    environment.setenv("https_proxy", proxy)
    with Client("https://example.invalid") as client, pytest.raises(RemoteError, match=f"https_proxy={proxy}"):
        client.sample()
    assert server.targets == ["CONNECT example.invalid:443"]


@pytest.mark.parametrize("url", ["http://[::1", "http://", "http://127.0.0.1:99999", "https:///x", "http://host:port"])
def test_an_invalid_url_is_an_error_with_an_example(url: str) -> None:
    done = CliRunner().invoke(cli, ["sample", url, "--out", "x.png"])
    assert done.exit_code == 6, done.output
    assert f"{url}: " in done.output
    assert "http://127.0.0.1:8080" in done.output


@pytest.mark.parametrize("source", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "http:/127.0.0.1:8080"])
@pytest.mark.parametrize("command", ["sample", "evaluate", "deploy", "inspect"])
def test_an_address_without_a_scheme_is_an_error_with_the_url_to_use(command: str, source: str) -> None:
    words = ["--out", "x.png"] if command == "sample" else []
    done = CliRunner().invoke(cli, [command, source, *words])
    assert done.exit_code == 2, done.output
    assert f"http://{source.removeprefix('http:/')}" in done.output
