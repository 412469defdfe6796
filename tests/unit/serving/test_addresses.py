"""`--host` takes what is an address of this machine, and tells what else it was given."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.serving.archive.mar import package
from ganctl.serving.hosts.torchserve.server import Server


@pytest.fixture(scope="module")
def mar(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(export, tmp_path_factory.mktemp("mar"))


@pytest.mark.parametrize(
    ("host", "code", "told"),
    [
        ("nosuchhost.invalid", 6, "--host nosuchhost.invalid: found no address for this name"),
        ("999.1.1.1", 6, "--host 999.1.1.1: found no address for this name"),
        ("a" * 80, 6, "found no address for this name"),
        ("198.51.100.7", 6, "the address 198.51.100.7, which no network interface of this machine has"),
        ("2001:db8::1", 6, "the address 2001:db8::1"),
        ("::1:8080", 6, "the address ::1:8080, which no network interface of this machine has"),
        ("8080", 2, "--host 8080: found a number, expected an address. Give --host 0.0.0.0 --port 8080."),
        ("tcp://1.2.3.4:80", 2, "found a URL, expected an address. Give --host 1.2.3.4 --port 80."),
        ("http://localhost:80/x", 2, "Give --host localhost --port 80."),
        ("unix:/tmp/x", 2, "--host unix:/tmp/x: found a path"),
        ("/tmp/x.sock", 2, "--host /tmp/x.sock: found a path"),
        ("./x.sock", 2, "found a path"),
        ("127.0.0.1:8080", 2, "Give --host 127.0.0.1 --port 8080."),
        ("localhost:8080", 2, "Give --host localhost --port 8080."),
        ("[::1]:8080", 2, "Give --host [::1] --port 8080."),
        (":8080", 2, "Give --host 0.0.0.0 --port 8080."),
        ("http://127.0.0.1", 2, "found a URL, expected an address. Give --host 127.0.0.1."),
        ("http://127.0.0.1:9000/", 2, "Give --host 127.0.0.1 --port 9000."),
        ("", 2, "--host '': found an empty text"),
        ("*", 2, "Give --host 0.0.0.0."),
    ],
)
@pytest.mark.parametrize("port", ["0", "18080"])
def test_what_is_no_address_of_this_machine_is_told_as_such(
    host: str, code: int, told: str, port: str, mar: Path
) -> None:
    done = CliRunner().invoke(cli, ["serve", str(mar), "--host", host, "--port", port])
    assert done.exit_code == code, done.output
    assert told in done.output
    assert "ss -ltnp" not in done.output, "no port is in use"
    assert "Traceback" not in done.output


@contextlib.contextmanager
def held(address: str, family: socket.AddressFamily) -> Iterator[int]:
    with socket.socket(family) as holder:
        holder.bind((address, 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1"])
def test_a_port_in_use_is_told_with_the_way_to_find_who_holds_it(host: str, mar: Path) -> None:
    with contextlib.ExitStack() as stack:
        try:
            of_v6 = host == "::1"
            port = stack.enter_context(held("::1", socket.AF_INET6) if of_v6 else held("127.0.0.1", socket.AF_INET))
        except OSError as error:
            pytest.skip(f"this machine has no IPv6 ({error})")
        done = CliRunner().invoke(cli, ["serve", str(mar), "--host", host, "--port", str(port)])
    assert done.exit_code == 6, done.output
    assert f"--port {port}: port {port} on" in done.output
    assert "`ss -ltnp` names its user" in done.output


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
def test_only_loopback_needs_no_token(host: str, auth: str, mar: Path) -> None:
    assert Server(mar, host=host).auth == auth
