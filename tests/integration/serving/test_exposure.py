"""A server on all addresses exposes one port, to clients with the token, and none of its secrets.

docs/security.md says which weakness of TorchServe each test is about.
"""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.serving.conftest import Running, java_of, members, running
from tests.integration.serving.doors import DRAWING, private, status
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

grpc: Any = importlib.import_module("grpc")  # it has no types; it comes with TensorBoard

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "secret-of-aws",
    "GITHUB_TOKEN": "secret-of-github",
    "HTTPS_PROXY": "http://me:secret-of-proxy@127.0.0.1:9",
}
WIDER = {
    "TS_ALLOWED_URLS": ".*",
    "TS_ENABLE_MODEL_API": "true",
    "TS_DISABLE_TOKEN_AUTHORIZATION": "true",
    "TS_CORS_ALLOWED_ORIGIN": "*",
    "TS_MANAGEMENT_ADDRESS": "http://0.0.0.0:0",
    "JAVA_TOOL_OPTIONS": "-Dganctl.wider=true",
}


@pytest.fixture(scope="module")
def exposed(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for all the world, started where the environment holds secrets and settings that would open it."""
    config = tmp_path_factory.mktemp("config") / "wider.properties"
    config.write_text("enable_envvars_config=true\nuse_env_allowed_urls=true\nenable_model_api=true\n")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (SECRETS | WIDER | {"TS_CONFIG_FILE": str(config)}).items():
                patch.setenv(name, value)
            server = stack.enter_context(running(export, tmp_path_factory.mktemp("x"), "--host", "0.0.0.0"))
        yield server


@pytest.fixture(scope="module")
def keys(exposed: Running) -> dict[str, str]:
    return {name: entry["key"] for name, entry in json.loads(token_file(exposed).read_text()).items()}


def token_file(running: Running) -> Path:
    return Path(str(running.record["token_file"]))


def listening(pid: int) -> dict[int, str]:
    """Port → address, in the kernel's hexadecimal digits, of the TCP sockets at which a process listens."""
    own = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            own.add(str(link.readlink()))
        except OSError:  # closed meanwhile
            continue
    found = {}
    for table in (Path(f"/proc/{pid}/net/tcp"), Path(f"/proc/{pid}/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():  # a kernel may have no IPv6
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                address, _, port = fields[1].partition(":")
                found[int(port, 16)] = address
    return found


def test_only_inference_leaves_the_machine(exposed: Running) -> None:
    found = listening(java_of(exposed.process.pid)[0])
    assert set(found.pop(httpx.URL(exposed.url).port or 0)) == {"0"}, "0.0.0.0 was asked for"
    assert len(found) == 2, "gRPC for inference and management"
    ours = listening(exposed.process.pid)
    assert len(ours) == 2, "management and metrics"
    found |= ours
    for port, address in found.items():
        assert address in ("0100007F", "0000000000000000FFFF00000100007F"), f"port {port} is open on {address}"


def test_the_environment_cannot_widen_the_settings(exposed: Running, keys: dict[str, str]) -> None:
    models = f"{exposed.record['management_url']}/models"
    assert status("POST", models, keys["management"], params={"url": "digits.mar", "model_name": "more"}) == 405
    assert status("GET", f"{exposed.url}/predictions/digits") == 400
    java = java_of(exposed.process.pid)[0]
    assert b"ganctl.wider" not in Path(f"/proc/{java}/environ").read_bytes()


def test_neither_java_nor_workers_see_the_secrets_around_them(exposed: Running) -> None:
    started = members(java_of(exposed.process.pid)[0])
    assert len(started) >= 2
    for pid in started:
        seen = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {variable.partition(b"=")[0].decode() for variable in seen}
        assert not names & (SECRETS | WIDER).keys()
        assert b"secret-of" not in b"".join(seen)
        assert {"PATH", "TMPDIR"} <= names


@pytest.mark.parametrize("path", DRAWING)
def test_whoever_draws_needs_the_key_on_every_path(exposed: Running, keys: dict[str, str], path: str) -> None:
    assert status("GET", exposed.url + path) == 400
    for wrong in ("wrong", keys["management"], keys["API"], keys["inference"].swapcase()):
        assert status("GET", exposed.url + path, wrong) == 400
    assert status("GET", exposed.url + path, keys["inference"]) == 200


def test_whoever_manages_needs_the_key_of_managers(exposed: Running, keys: dict[str, str]) -> None:
    url = str(exposed.record["management_url"])
    for path, right in (("/models", "management"), ("/workflows", "management"), ("/token?type=inference", "API")):
        for key in (None, "wrong", *(key for name, key in keys.items() if name != right)):
            assert status("GET", url + path, key) == 400, path
    assert status("GET", f"{url}/models", keys["management"]) == 200


def test_grpc_needs_keys_too_and_registers_nothing(exposed: Running, served: Running) -> None:
    register = "/org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel"
    request = b"\x4a\x0adigits.mar"  # field 9, the URL
    for server in (exposed, served):
        settings = (private(server) / "config.properties").read_text()
        port = re.search(r"grpc_management_port=(\d+)", settings)
        assert port is not None
        with grpc.insecure_channel(f"127.0.0.1:{port[1]}") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(register)(request, timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_keys_are_for_the_owners_eyes_only(exposed: Running) -> None:
    assert token_file(exposed).stat().st_mode & 0o777 == 0o600
    assert token_file(exposed).parent.stat().st_mode & 0o777 == 0o700
    assert token_file(exposed).parent == private(exposed), "nor can others reach logs, store and workers' sockets"


def test_keys_and_secrets_are_in_no_log(exposed: Running, keys: dict[str, str]) -> None:
    status("GET", f"{exposed.url}/predictions/digits", keys["inference"])
    status("GET", f"{exposed.url}/predictions/digits?token={keys['inference']}")
    written = b"".join(path.read_bytes() for path in (private(exposed) / "logs").iterdir())
    assert written
    assert not [name for name, key in keys.items() if key.encode() in written]
    assert b"secret-of" not in written
