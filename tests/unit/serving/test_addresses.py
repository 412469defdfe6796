"""`--host` accepts the addresses of this machine; other values are errors that name the value and a remedy."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.serving.hosts.torchserve.server import Server

ANY = "0.0.0.0"  # part of the remedy for a value that is not an address
LIST = "`ip address`"  # part of the remedy for an address of another machine


@pytest.mark.parametrize(
    ("host", "code", "found", "remedy"),
    [
        ("nosuchhost.invalid", 6, "--host nosuchhost.invalid:", ANY),
        ("999.1.1.1", 6, "--host 999.1.1.1:", ANY),
        ("a" * 80, 6, f"--host {'a' * 80}:", ANY),
        ("198.51.100.7", 6, "198.51.100.7", LIST),
        ("2001:db8::1", 6, "2001:db8::1", LIST),
        ("::1:8080", 6, "::1:8080", LIST),
        ("8080", 2, "--host 8080:", "--host 0.0.0.0 --port 8080."),
        ("tcp://1.2.3.4:80", 2, "URL", "--host 1.2.3.4 --port 80."),
        ("http://localhost:80/x", 2, "URL", "--host localhost --port 80."),
        ("unix:/tmp/x", 2, "--host unix:/tmp/x:", ANY),
        ("/tmp/x.sock", 2, "--host /tmp/x.sock:", ANY),
        ("./x.sock", 2, "--host ./x.sock:", ANY),
        ("127.0.0.1:8080", 2, "--host 127.0.0.1:8080:", "--host 127.0.0.1 --port 8080."),
        ("localhost:8080", 2, "--host localhost:8080:", "--host localhost --port 8080."),
        ("[::1]:8080", 2, "--host [::1]:8080:", "--host [::1] --port 8080."),
        (":8080", 2, "--host :8080:", "--host 0.0.0.0 --port 8080."),
        ("http://127.0.0.1", 2, "URL", "--host 127.0.0.1."),
        ("http://127.0.0.1:9000/", 2, "URL", "--host 127.0.0.1 --port 9000."),
        ("", 2, "--host '':", ANY),
        ("*", 2, "--host *:", "--host 0.0.0.0."),
    ],
)
@pytest.mark.parametrize("port", ["0", "18080"])
def test_an_unusable_host_is_an_error_with_its_value_and_a_remedy(
    host: str, code: int, found: str, remedy: str, port: str, packed: Path
) -> None:
    done = CliRunner().invoke(cli, ["serve", str(packed), "--host", host, "--port", port])
    assert done.exit_code == code, done.output
    assert "--host" in done.output
    assert found in done.output
    assert remedy in done.output
    assert "ss -ltnp" not in done.output, "no port is in use"
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("host", "code", "message"),
    [
        ("198.51.100.7", 6, "--metrics-host: found the address 198.51.100.7"),
        ("127.0.0.1:9000", 2, "--metrics-host 127.0.0.1:9000: found a port"),
        ("nosuchhost.invalid", 6, "--metrics-host nosuchhost.invalid: found no address"),
    ],
)
@pytest.mark.parametrize("engine", ["torchserve", "native"])
def test_an_unusable_metrics_host_is_an_error_that_names_this_option(
    host: str, code: int, message: str, engine: str, packed: Path
) -> None:
    done = CliRunner().invoke(cli, ["serve", str(packed), "--engine", engine, "--port", "0", "--metrics-host", host])
    assert done.exit_code == code, done.output
    assert message in done.output


@contextlib.contextmanager
def listener(address: str, family: socket.AddressFamily) -> Iterator[int]:
    """A port of the address on which a socket listens."""
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1"])
def test_a_port_in_use_is_an_error_with_the_port_and_the_command_that_finds_its_user(host: str, packed: Path) -> None:
    family, address = (socket.AF_INET6, "::1") if host == "::1" else (socket.AF_INET, "127.0.0.1")
    with contextlib.ExitStack() as stack:
        try:
            port = stack.enter_context(listener(address, family))
        except OSError as error:
            pytest.skip(f"this machine has no IPv6 ({error})")
        done = CliRunner().invoke(cli, ["serve", str(packed), "--host", host, "--port", str(port)])
    assert done.exit_code == 6, done.output
    assert f"--port {port}:" in done.output
    assert "`ss -ltnp`" in done.output


@pytest.mark.parametrize(
    ("host", "auth"),
    [
        ("127.0.0.1", "none"),
        ("127.0.0.2", "none"),
        ("127.1", "none"),
        ("localhost", "none"),
        ("::1", "none"),
        ("[::1]", "none"),
        ("0:0:0:0:0:0:0:1", "none"),
        ("::ffff:127.0.0.1", "none"),
        ("0.0.0.0", "token"),
        ("::", "token"),
        ("198.51.100.7", "token"),
    ],
)
def test_only_loopback_needs_no_token(host: str, auth: str, packed: Path) -> None:
    assert Server(packed, host=host).auth == auth
