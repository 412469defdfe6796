"""Access to a native server: keys, rate limits, origins of web pages, TLS, a Unix socket, trusted proxies."""

import contextlib
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import trustme

from ganctl.serving.archive.mar import package
from ganctl.serving.errors import ServerError, SettingError
from ganctl.serving.hosts.native.server import Server
from ganctl.serving.hosts.ports import bind_ports
from tests import http
from tests.integration.serving.conftest import finish, start_ganctl
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the native host needs Linux")

ORIGIN = "https://example.org"


@pytest.fixture(scope="module")
def mar(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(export, tmp_path_factory.mktemp("mar"))


def status(server: Server, key: str) -> int:
    return http.get(f"{server.url}/predictions/digits", headers={"Authorization": f"Bearer {key}"}).status_code


def test_keys_of_a_file_are_accepted_revoked_and_added_while_the_server_runs(mar: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann key-of-ann\nbob key-of-bob\n")
    with Server(mar, port=0, workers=2, keys=keys) as server:
        assert http.get(f"{server.url}/predictions/digits").status_code == 401
        assert [status(server, f"key-of-{name}") for name in ("ann", "bob", "eve")] == [200, 200, 401]
        keys.write_text("bob key-of-bob\neve key-of-eve\n")
        # each request may meet another worker, which reads the file at another moment
        wait_for(
            lambda: all(status(server, "key-of-ann") == 401 and status(server, "key-of-eve") == 200 for _ in range(8)),
            "both workers have read the file again",
        )
        assert status(server, "key-of-bob") == 200


@pytest.mark.parametrize("text", ["", "ann\n"])
def test_a_file_without_usable_keys_is_refused_before_the_start(text: str, mar: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(text)
    with pytest.raises(SettingError, match=re.escape(str(keys))):
        Server(mar, port=0, keys=keys)


def test_a_key_beyond_its_rate_gets_429_with_the_seconds_to_wait_and_others_go_on(mar: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("check key-of-check\nann key-of-ann\nbob key-of-bob\n")  # the server tries the first one
    with Server(mar, port=0, workers=2, keys=keys, rate=0.001) as server:
        assert [status(server, "key-of-ann") for _ in range(3)] == [200, 429, 429]
        assert status(server, "key-of-bob") == 200
        refused = http.get(f"{server.url}/predictions/digits", headers={"Authorization": "Bearer key-of-ann"})
        assert int(refused.headers["retry-after"]) > 100


def test_pages_of_an_allowed_origin_may_read_replies(mar: Path) -> None:
    with Server(mar, port=0, workers=1, origins=[ORIGIN]) as server:
        url = f"{server.url}/predictions/digits"
        allowed = http.post(url, json={"seed": 1}, headers={"Origin": ORIGIN})
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "x-seed" in allowed.headers["access-control-expose-headers"]
        assert allowed.headers["vary"] == "Accept, Origin"
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        preflight = http.request("OPTIONS", url, headers=asked)
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "content-type" in preflight.headers["access-control-allow-headers"]
        for headers in ({}, {"Origin": "https://example.com"}):
            for method in ("GET", "OPTIONS"):
                reply = http.request(method, url, headers=headers)
                assert not [name for name in reply.headers if name.startswith("access-control-")]


@pytest.fixture
def certificates(tmp_path: Path) -> Callable[[], tuple[Path, ssl.SSLContext]]:
    """certificates() → a new certificate with its key in `tmp_path / "server.pem"`, and the context that trusts it."""

    def new() -> tuple[Path, ssl.SSLContext]:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        replaced = tmp_path / "new.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(replaced))
        replaced.replace(tmp_path / "server.pem")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return tmp_path / "server.pem", context

    return new


def test_https_is_served_with_the_certificate_that_is_in_the_file_now(
    mar: Path, certificates: Callable[[], tuple[Path, ssl.SSLContext]]
) -> None:
    file, first = certificates()
    with Server(mar, port=0, workers=1, tls_cert=file) as server:
        assert server.url.startswith("https://127.0.0.1:")

        def trusted(context: ssl.SSLContext) -> bool:
            try:
                with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as client:
                    return client.get(f"{server.url}/predictions/digits").status_code == 200
            except httpx.ConnectError:
                return False

        assert trusted(first)
        _, second = certificates()
        wait_for(lambda: trusted(second), "the worker uses the new certificate")
        assert not trusted(first)


def test_a_large_reply_over_https_arrives_whole_before_the_connection_closes(
    mar: Path, certificates: Callable[[], tuple[Path, ssl.SSLContext]]
) -> None:
    file, context = certificates()
    with Server(mar, port=0, workers=1, tls_cert=file) as server:
        address = httpx.URL(server.url)
        plain = socket.socket()
        plain.settimeout(PATIENCE)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # most of the reply stays in the server
        plain.connect((address.host, address.port))
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
            path = b"/digits/predict?count=256&scale=5"
            client.sendall(
                b"GET " + path + b" HTTP/1.1\r\nHost: h\r\nAccept: application/x-npz\r\nConnection: close\r\n\r\n"
            )
            time.sleep(0.5)  # the server has written all it can: the rest waits for this client
            reply = b"".join(iter(lambda: client.recv(65_536), b""))
    head, _, body = reply.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None
    assert len(body) == int(length[1]) > 4_194_304, "more than the kernel buffers"


def test_an_idle_client_over_https_does_not_delay_the_shutdown(
    mar: Path, certificates: Callable[[], tuple[Path, ssl.SSLContext]]
) -> None:
    file, context = certificates()
    with (
        Server(mar, port=0, workers=1, tls_cert=file) as server,
        httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as client,
    ):
        client.get(f"{server.url}/v2/health/ready")  # the connection stays open, and the client reads no more of it
        started = time.monotonic()
        assert server.drain(PATIENCE)
        assert time.monotonic() - started < 10, "uvloop would wait 30 s for the client's part of the closing"


def first_of_three_free_ports() -> int:
    """Returns a port below those that the system gives to other tests, which ask for any free port."""
    for port in range(20_000, 30_000, 3):
        with contextlib.suppress(ServerError), bind_ports("127.0.0.1", port, ("inference", "management", "metrics")):
            return port
    pytest.fail("found no three free ports in a row from 20000 to 30000")


def test_a_server_can_be_started_again_at_once_on_the_port_of_one_that_closed_connections(mar: Path) -> None:
    port = first_of_three_free_ports()
    for _ in range(2):
        with Server(mar, port=port, workers=1) as server:
            reply = httpx.get(f"{server.url}/ping", headers={"Connection": "close"}, trust_env=False)
            assert reply.status_code == 200
            assert httpx.URL(server.url).port == port


def test_a_certificate_without_its_key_is_refused_before_the_start(mar: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(str(key))
    with pytest.raises(SettingError, match="--tls-key"):
        Server(mar, port=0, tls_cert=certificate)
    with pytest.raises(SettingError, match=re.escape(str(certificate))):
        Server(mar, port=0, tls_cert=certificate, tls_key=key)


@pytest.fixture
def unix_client(tmp_path: Path) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"))
    with httpx.Client(transport=transport, base_url="http://server", timeout=PATIENCE) as client:
        yield client


def test_a_unix_socket_is_served_besides_the_port_and_deleted_at_the_end(
    mar: Path, tmp_path: Path, unix_client: httpx.Client
) -> None:
    path = tmp_path / "socket"
    for _ in range(2):
        with Server(mar, port=0, workers=1, unix_socket=path) as server:
            assert unix_client.get("/predictions/digits").status_code == 200
            assert http.get(f"{server.url}/predictions/digits").status_code == 200
            with pytest.raises(ServerError, match="--unix-socket"), Server(mar, port=0, unix_socket=path):
                pass
            unix_client.close()
        assert not path.exists()
        unix_client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://server")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--keys", "keys"), "--keys: TorchServe"),
        (("--rate-limit", "5", "--cors", "*"), "--rate-limit, --cors: TorchServe"),
        (("--engine", "native", "--tls-key", "key"), "--tls-cert"),
        (("--engine", "native", "--keys", "keys", "--auth", "none"), "--auth token"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    words: tuple[str, ...], message: str, export: Path, temporary: Path
) -> None:
    process = start_ganctl("serve", str(export), *words, temporary=temporary)
    _, err = finish(process)
    assert process.returncode == 2
    assert message in err


def has_two_lines(path: Path) -> bool:
    return path.read_text().count("\n") == 2


def test_the_log_names_the_client_that_a_trusted_proxy_forwards_and_no_other_one(mar: Path, tmp_path: Path) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    for proxies, client in ((["127.0.0.0/8"], "203.0.113.9"), (["203.0.113.0/24"], "127.0.0.1"), ([], "127.0.0.1")):
        folder = tmp_path / (client + str(len(proxies)))
        with Server(mar, port=0, workers=1, access_log=folder, proxies=proxies) as server:
            assert http.get(f"{server.url}/predictions/digits", headers=forwarded).status_code == 200
            (path,) = folder.glob("access-*.jsonl")
            wait_for(partial(has_two_lines, path), "the request is logged, after the one of the server itself")
        *_, line = path.read_text().splitlines()
        assert json.loads(line)["client"] == client
        assert json.loads(line)["path"] == "/predictions/digits"
