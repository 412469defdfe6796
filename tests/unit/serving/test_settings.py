"""The environment variables of the caller cannot change the settings of TorchServe."""

from pathlib import Path

import pytest

from ganctl.serving.hosts.torchserve.config import config_properties, environment
from ganctl.serving.hosts.torchserve.ports import Ports

FOLDER = Path("/private")


@pytest.mark.parametrize("name", ["PATH", "HOME", "OMP_NUM_THREADS", "PYTHONPATH", "ORT_DISABLE_TELEMETRY"])
def test_variables_that_workers_need_are_inherited(name: str) -> None:
    assert environment({name: "x"}, FOLDER)[name] == "x"


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "https_proxy", "TS_CONFIG_FILE", "JAVA_TOOL_OPTIONS", "GANCTL_API_KEY",
     "GANCTL_SERVICE_PORT", "GANCTL_ACCESS_LOG", "GANCTL_STATE"],
)  # fmt: skip
def test_other_variables_are_not_inherited(name: str) -> None:
    assert environment({name: "x"}, FOLDER).get(name) != "x"
    assert "x" not in environment({name: "x"}, FOLDER).values()


@pytest.mark.parametrize("name", ["LANG", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING"])
def test_java_and_workers_use_utf8_for_names(name: str) -> None:
    passed = environment({name: "x"}, FOLDER)
    assert "x" not in passed.values()
    assert passed["LC_ALL"] == "C.UTF-8"


def test_all_folders_of_torchserve_are_in_the_private_folder() -> None:
    given = {"TMPDIR": "/tmp", "LOG_LOCATION": "/var/log", "METRICS_LOCATION": "/var/log"}
    paths = [value for value in environment(given, FOLDER).values() if value.startswith("/")]
    assert len(paths) > len(given)
    assert not {*given.values()} & {*paths}
    assert all(Path(path).is_relative_to(FOLDER) for path in paths)


def test_only_the_inference_port_listens_on_the_host_and_all_others_on_loopback() -> None:
    lines = config_properties(FOLDER, "0.0.0.0", Ports(*range(8080, 8085)), 2, token=True).splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    addresses = {name: value for name, value in settings.items() if name.endswith("_address")}
    assert addresses.pop("inference_address") == "http://0.0.0.0:8080"
    assert len(addresses) == 4
    assert all(value == "127.0.0.1" or value.startswith("unix:/private/") for value in addresses.values())
    assert settings["disable_token_authorization"] == "false"
