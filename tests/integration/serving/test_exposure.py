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

from tests.integration.serving.conftest import Engine, Running, java_of, members, running
from tests.integration.serving.doors import PREDICTION_PATHS, metrics, private_folder, status
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

grpc: Any = importlib.import_module("grpc")  # has no type hints; TensorBoard depends on it

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "secret-of-aws",
    "GITHUB_TOKEN": "secret-of-github",
    "HTTPS_PROXY": "http://me:secret-of-proxy@127.0.0.1:9",
}
UNSAFE_SETTINGS = {
    "TS_ALLOWED_URLS": ".*",
    "TS_ENABLE_MODEL_API": "true",
    "TS_DISABLE_TOKEN_AUTHORIZATION": "true",
    "TS_CORS_ALLOWED_ORIGIN": "*",
    "TS_MANAGEMENT_ADDRESS": "http://0.0.0.0:0",
    "JAVA_TOOL_OPTIONS": "-Dganctl.unsafe=true",
}


@pytest.fixture(scope="module")
def exposed(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server on all addresses, started with secrets and unsafe settings in its environment."""
    config = tmp_path_factory.mktemp("config") / "unsafe.properties"
    config.write_text("enable_envvars_config=true\nuse_env_allowed_urls=true\nenable_model_api=true\n")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (SECRETS | UNSAFE_SETTINGS | {"TS_CONFIG_FILE": str(config)}).items():
                patch.setenv(name, value)
            server = stack.enter_context(running(export, tmp_path_factory.mktemp("x"), "--host", "0.0.0.0"))
        yield server


@pytest.fixture(scope="module")
def keys(exposed: Running) -> dict[str, str]:
    """The keys of the token file by their names: inference, management, API."""
    return {name: entry["key"] for name, entry in json.loads(token_file(exposed).read_text()).items()}


def token_file(running: Running) -> Path:
    return Path(str(running.record["token_file"]))


def listening(pid: int) -> dict[int, str]:
    """Port → address (hexadecimal, as in /proc/net/tcp) of the TCP sockets on which a process listens."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(str(link.readlink()))
        except OSError:  # the file was closed
            continue
    addresses = {}
    for table in (Path(f"/proc/{pid}/net/tcp"), Path(f"/proc/{pid}/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():  # a kernel may have no IPv6
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, _, port = fields[1].partition(":")
                addresses[int(port, 16)] = address
    return addresses


def test_only_the_inference_port_is_open_beyond_loopback(exposed: Running) -> None:
    of_java = listening(java_of(exposed.process.pid)[0])
    assert set(of_java.pop(httpx.URL(exposed.url).port or 0)) == {"0"}, "inference is on --host 0.0.0.0"
    assert len(of_java) == 2, "gRPC for inference and management"
    of_ganctl = listening(exposed.process.pid)
    assert len(of_ganctl) == 2, "management and metrics"
    for port, address in (of_java | of_ganctl).items():
        assert address in ("0100007F", "0000000000000000FFFF00000100007F"), f"port {port} is open on {address}"


@pytest.mark.soak_on_torchserve
def test_metrics_host_opens_the_port_of_the_metrics_and_no_other(engine: Engine, export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path, "--metrics-host", "0.0.0.0", engine=engine) as server:
        open_ports = listening(server.process.pid)
        metrics_port, management_port = (
            httpx.URL(str(server.record[name])).port for name in ("metrics_url", "management_url")
        )
        assert metrics(str(server.record["metrics_url"]))["ganctl_workers", ()] == 2
    assert {port for port, address in open_ports.items() if set(address) == {"0"}} == {metrics_port}
    assert management_port in open_ports


def test_the_environment_cannot_widen_the_settings(exposed: Running, keys: dict[str, str]) -> None:
    models = f"{exposed.record['management_url']}/models"
    assert status("POST", models, keys["management"], params={"url": "digits.mar", "model_name": "more"}) == 405
    assert status("GET", f"{exposed.url}/predictions/digits") == 400
    java = java_of(exposed.process.pid)[0]
    assert b"ganctl.unsafe" not in Path(f"/proc/{java}/environ").read_bytes()


def test_java_and_workers_inherit_no_secrets(exposed: Running) -> None:
    processes = members(java_of(exposed.process.pid)[0])
    assert len(processes) >= 2
    for pid in processes:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {variable.partition(b"=")[0].decode() for variable in variables}
        assert not names & (SECRETS | UNSAFE_SETTINGS).keys()
        assert b"secret-of" not in b"".join(variables)
        assert {"PATH", "TMPDIR"} <= names


@pytest.mark.parametrize("path", PREDICTION_PATHS)
def test_every_prediction_path_requires_the_inference_key(exposed: Running, keys: dict[str, str], path: str) -> None:
    assert status("GET", exposed.url + path) == 400
    for wrong in ("wrong", keys["management"], keys["API"], keys["inference"].swapcase()):
        assert status("GET", exposed.url + path, wrong) == 400
    assert status("GET", exposed.url + path, keys["inference"]) == 200


def test_management_requires_the_management_key(exposed: Running, keys: dict[str, str]) -> None:
    url = str(exposed.record["management_url"])
    for path, right in (("/models", "management"), ("/workflows", "management"), ("/token?type=inference", "API")):
        for key in (None, "wrong", *(key for name, key in keys.items() if name != right)):
            assert status("GET", url + path, key) == 400, path
    assert status("GET", f"{url}/models", keys["management"]) == 200


def test_grpc_management_refuses_to_register_a_model(exposed: Running, torchserve: Running) -> None:
    register = "/org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel"
    request = b"\x4a\x0adigits.mar"  # field 9, the URL
    for server in (exposed, torchserve):
        settings = (private_folder(server) / "config.properties").read_text()
        port = re.search(r"grpc_management_port=(\d+)", settings)
        assert port is not None
        with grpc.insecure_channel(f"127.0.0.1:{port[1]}") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(register)(request, timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_only_the_owner_can_read_the_token_file(exposed: Running) -> None:
    assert token_file(exposed).stat().st_mode & 0o777 == 0o600
    assert token_file(exposed).parent.stat().st_mode & 0o777 == 0o700
    assert token_file(exposed).parent == private_folder(exposed), (
        "logs, model store and the workers' sockets are in the same folder"
    )


def test_keys_and_secrets_are_in_no_log(exposed: Running, keys: dict[str, str]) -> None:
    status("GET", f"{exposed.url}/predictions/digits", keys["inference"])
    status("GET", f"{exposed.url}/predictions/digits?token={keys['inference']}")
    logs = b"".join(path.read_bytes() for path in (private_folder(exposed) / "logs").iterdir())
    assert logs
    assert not [name for name, key in keys.items() if key.encode() in logs]
    assert b"secret-of" not in logs
