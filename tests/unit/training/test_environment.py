"""Variables that begin with GANCTL_: settings, misspelled settings, and variables of other programs."""

import json
import logging
import os

import pytest
from click.testing import CliRunner, Result

from ganctl.main import cli
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import DESCRIPTIONS
from tests.conftest import Ganctl

IP = "10.0.0.1"


def kubernetes(service: str, port: int = 80, protocol: str = "tcp", name: str = "http") -> dict[str, str]:
    """Variables that the kubelet sets in each container for a service (kubernetes.io: Accessing the Service)."""
    prefix, address = service.upper().replace("-", "_"), f"{protocol}://{IP}:{port}"
    one = f"{prefix}_PORT_{port}_{protocol.upper()}"
    return {
        f"{prefix}_SERVICE_HOST": IP,
        f"{prefix}_SERVICE_PORT": str(port),
        f"{prefix}_SERVICE_PORT_{name.upper().replace('-', '_')}": str(port),
        f"{prefix}_PORT": address,
        one: address,
        f"{one}_PROTO": protocol,
        f"{one}_PORT": str(port),
        f"{one}_ADDR": IP,
    }


def docker_link(alias: str) -> dict[str, str]:
    """Variables that `docker run --link` sets (docs.docker.com: Legacy container links)."""
    prefix = alias.upper().replace("-", "_")
    return {
        f"{prefix}_NAME": f"/web/{alias}",
        f"{prefix}_PORT_8080_TCP": f"tcp://{IP}:8080",
        f"{prefix}_PORT_8000_TCP_START": f"tcp://{IP}:8000",
        f"{prefix}_ENV_PATH": "/usr/bin",
        f"{prefix}_ENV_GANCTL_TRAIN__SEED": "7",
    }


OTHERS = {
    **kubernetes("ganctl"),
    **kubernetes("ganctl-serve", 8080, name="inference-api"),
    **kubernetes("ganctl-train-mnist"),
    **kubernetes("ganctl-train--seed"),
    **kubernetes("ganctl-preset"),
    **kubernetes("ganctl-page", 53, "udp"),
    **kubernetes("ganctl-data-root", 5000, "sctp", name="a"),
    **docker_link("ganctl"),
    **docker_link("ganctl-data"),
    **docker_link("ganctl-train--seed"),
    "GANCTL_VERSION": "1.2", "GANCTL_IMAGE": "ganctl:latest", "GANCTL_HOME": "/opt/ganctl", "GANCTL_LOG_LEVEL": "debug",
    "GANCTL_DATA_DIR": "/data", "GANCTL_MODEL": "x", "GANCTL_NAME": "x", "GANCTL_CONFIG": "/etc/ganctl.toml",
    "GANCTL_CHECKPOINT_DIR": "/c", "GANCTL_NAMESPACE": "default", "GANCTL_TAG": "x", "GANCTL_DEBUG": "1",
    "GANCTL_TRAIN_IMAGE": "x", "GANCTL_ROOT": "/", "GANCTL_OPERATOR__ZONE": "x", "GANCTL_API_KEY": "s", "GANCTL_": "x",
    "GANCTL_PROFILE": "prod", "GANCTL_OPTIONS": "--preset x", "GANCTL_SCHEDULE": "@daily", "GANCTL_SIZE": "large",
    "GANCTL_SOURCE": "https://example.org", "GANCTL_LICENSE": "MIT",
    "GANCTL_PAGE": "off", "GANCTL_HEALTH_URL": "http://127.0.0.1:81/x", "GANCTL_ACCESS_LOG": "/x", "GANCTL_STATE": "/x",
}  # fmt: skip


def train(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> Result:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    return CliRunner().invoke(cli, ["train", "--print-config", "--json"])


def test_variables_of_other_programs_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = train(monkeypatch, {})
    done = train(monkeypatch, OTHERS)
    assert done.exit_code == 0, done.output
    assert (done.stdout, done.stderr) == (before.stdout, before.stderr)


def test_ignored_variables_are_logged_once_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    variables = {"GANCTL_PORT": f"tcp://{IP}:80", "GANCTL_CUSTOM": "x", "GANCTL_TRAIN__SEED": "3"}
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            assert resolve(environment=variables)[0].train.seed == 3
    (line,) = [record for record in caplog.records if "GANCTL_CUSTOM" in record.getMessage()]
    assert (line.levelno, "GANCTL_PORT" in line.getMessage()) == (logging.DEBUG, True)
    assert "SEED" not in line.getMessage()


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("GANCTL_TRAIN__BATCHSIZE", "train.batch_size"),
        ("GANCTL_TRAIN__SEDE", "train.seed"),
        ("GANCTL_TRAIN__XYZ", "'train.xyz'"),
        ("GANCTL_TRAIN__", "'train.'"),
        ("GANCTL_TRIAN__SEED", "train.seed"),
        ("GANCTL_TRAINING__SEED", "train.seed"),
        ("GANCTL_OPTIMISER__LR", "optimizer.lr"),
        ("GANCTL_NETWORK__LATENT_DIM", "model.latent_dim"),
        ("GANCTL_DATASET__SOURCE", "data.source"),
        ("GANCTL_DATA___SOURCE", "data.source"),
        ("GANCTL_TRAIN_BATCH_SIZE", "GANCTL_TRAIN__BATCH_SIZE"),
        ("GANCTL_TRAIN_SEED", "GANCTL_TRAIN__SEED"),
        ("GANCTL_DATA_SOURCE", "GANCTL_DATA__SOURCE"),
        ("GANCTL_DATASOURCE", "GANCTL_DATA__SOURCE"),
        ("GANCTL_EARLY_STOPING_PATIENCE", "GANCTL_EARLY_STOPPING__PATIENCE"),
        ("GANCTL_SEED", "GANCTL_TRAIN__SEED"),
        ("GANCTL_BATCH_SIZE", "GANCTL_TRAIN__BATCH_SIZE"),
        ("GANCTL__TRAIN__SEED", "train.seed"),
        ("GANCTL_PRESETT", "GANCTL_PRESET"),
        ("GANCTL_PRE_SET", "GANCTL_PRESET"),
        ("GANCTL_PAGES", "GANCTL_PAGE"),
    ],
)
def test_a_misspelled_setting_is_an_error_with_a_suggestion(
    variable: str, suggestion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = train(monkeypatch, {**OTHERS, variable: "5"})
    assert done.exit_code == 3, done.output
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("  - ")]
    assert variable in error
    assert suggestion in error.replace(variable, "")


def test_every_setting_can_be_set_among_variables_of_other_programs() -> None:
    values = resolve(environment={})[0].flat()
    for name in DESCRIPTIONS:
        variable = f"GANCTL_{name.upper().replace('.', '__')}"
        text = "unset" if values[name] is None else json.dumps(values[name])
        assert resolve(environment={**OTHERS, variable: text})[1][name] == variable


def test_evaluate_reads_variables_of_data_settings_by_the_same_rules(ganctl: Ganctl) -> None:
    words = ["evaluate", "pretrained", "--num-images", "100", "--json"]
    for variables, code, reason in (
        ({**kubernetes("ganctl-data"), **docker_link("ganctl-data"), "GANCTL_DATA_DIR": "/x"}, 0, ""),
        ({"GANCTL_PRESET": "not read by evaluate", "GANCTL_TRAIN_SEED": "3", "GANCTL_SEED": "3"}, 0, ""),
        ({"GANCTL_DATA_SOURCE": "/x"}, 3, "GANCTL_DATA__SOURCE"),
        ({"GANCTL_DTAA__SOURCE": "/x"}, 3, " data.source"),
        ({"GANCTL_DATA__SOURCE": "/nonexistent/images"}, 4, "/nonexistent/images"),
    ):
        done = ganctl(*words, env={**os.environ, **variables})
        assert done.returncode == code, done.stderr
        assert reason in done.stderr
