"""RANK and WORLD_SIZE in the environment: PyTorchJob and scripts for SLURM and MPI set them without torchrun."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from ganctl.training.errors import ConfigError
from ganctl.training.loop.session import Session
from tests.conftest import Ganctl
from tests.integration.training.processes import finish, reserved_port, start
from tests.states import assert_same_run

GROUP = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
LIMIT = ("--max-steps", "20")


@pytest.mark.soak
def test_processes_with_rank_and_world_size_train_together_and_rank_0_prints_the_result(tmp_path: Path) -> None:
    with reserved_port() as port:
        address = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        ranks = [start(tmp_path / "run", *LIMIT, variables=address | {"RANK": str(rank)}) for rank in range(2)]
        outputs = [finish(rank) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert json.loads(outputs[0][0])["steps"] == 20
    assert outputs[1][0] == "", "only rank 0 prints the result"
    assert re.search(rf"rank 1 of 2 \(RANK, WORLD_SIZE\).*localhost:{port}\b", outputs[1][1])
    by_torchrun = start(tmp_path / "reference", "--nproc", "2", *LIMIT)
    finish(by_torchrun)
    assert by_torchrun.returncode == 0
    assert_same_run(tmp_path / "reference", tmp_path / "run")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_ctrl_c_ends_a_rank_that_waits_for_the_other_ranks(rank: str, tmp_path: Path) -> None:
    with reserved_port() as port:
        process = start(tmp_path / "run", variables=GROUP | {"RANK": rank, "MASTER_PORT": str(port)})
        assert process.stderr is not None
        assert f"localhost:{port}" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        finish(process)
    assert process.returncode in (-signal.SIGINT, 130)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, r"\bRANK is not set\b.*\b0 to 1\b"),
        (GROUP | {"RANK": "2"}, r"\bRANK = '2'.*\b0 to 1\b"),
        (GROUP | {"RANK": "-1"}, r"\bRANK = '-1'.*\b0 to 1\b"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, r"\bRANK = '1'.*\b0 to 0\b"),
        (GROUP | {"WORLD_SIZE": "two"}, r"\bWORLD_SIZE = 'two'.*\b1\b"),
        (GROUP | {"WORLD_SIZE": "0"}, r"\bWORLD_SIZE = '0'.*\b1\b"),
        (GROUP | {"MASTER_ADDR": ""}, r"\bMASTER_ADDR is not set\b"),
        (GROUP | {"MASTER_PORT": "tcp://10.0.0.1:80"}, r"\bMASTER_PORT = 'tcp://10\.0\.0\.1:80'.*\b1 to 65535\b"),
        (GROUP | {"LOCAL_RANK": "first"}, r"\bLOCAL_RANK = 'first'.*\b0\b"),
    ],
)
def test_the_error_of_an_invalid_rank_variable_names_it_and_its_value(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as raised:
        Session()
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1"},
        {"RANK": "7", "WORLD_SIZE": "", "MASTER_ADDR": "nowhere", "MASTER_PORT": "no port"},
        {"TORCHELASTIC_RUN_ID": "of another program"},
        {"LOCAL_RANK": "3"},
    ],
)
def test_rank_variables_of_a_single_process_are_ignored(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Session().ranks.size == 1


def test_nproc_in_a_process_that_has_a_rank_is_an_error(ganctl: Ganctl) -> None:
    done = ganctl("train", "--nproc", "2", "--json", env=os.environ | GROUP)
    assert done.returncode == 3
    assert re.search(r"--nproc 2: .*\bWORLD_SIZE = 2\b", done.stderr)
    assert json.loads(done.stdout)["exit_code"] == 3


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "two"}, {"WORLD_SIZE": "2"}])
def test_a_process_with_incomplete_rank_variables_prints_its_error_as_one_json_object(
    variables: dict[str, str], ganctl: Ganctl
) -> None:
    done = ganctl("train", "--preset", "absent", "--json", env=os.environ | variables)
    assert done.returncode == 3
    assert json.loads(done.stdout)["exit_code"] == 3


def test_commands_other_than_train_ignore_the_rank_variables(ganctl: Ganctl, small_run: Path) -> None:
    environment = os.environ | GROUP | {"RANK": "1"}
    done = ganctl("evaluate", small_run, "--num-images", "500", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_images"] == 500
    failed = ganctl("evaluate", small_run / "absent", "--json", env=environment)
    assert failed.returncode == 4
    assert json.loads(failed.stdout)["exit_code"] == 4
