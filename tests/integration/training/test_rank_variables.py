"""RANK and WORLD_SIZE in the environment, as PyTorchJob and scripts for SLURM and MPI set them without torchrun."""

import json
import os
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


def test_processes_with_ranks_train_as_one_and_the_first_one_tells(tmp_path: Path) -> None:
    with reserved_port() as port:
        address = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        ranks = [start(tmp_path / "run", *LIMIT, variables=address | {"RANK": str(rank)}) for rank in range(2)]
        outputs = [finish(rank) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert json.loads(outputs[0][0])["steps"] == 20
    assert outputs[1][0] == "", "one rank tells the result"
    assert f"rank 1 of 2 (RANK, WORLD_SIZE): connects to rank 0 at localhost:{port}" in outputs[1][1]
    by_torchrun = start(tmp_path / "reference", "--nproc", "2", *LIMIT)
    finish(by_torchrun)
    assert by_torchrun.returncode == 0
    assert_same_run(tmp_path / "reference", tmp_path / "run")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_that_waits_for_the_others_is_ended_by_ctrl_c(rank: str, tmp_path: Path) -> None:
    with reserved_port() as port:
        process = start(tmp_path / "run", variables=GROUP | {"RANK": rank, "MASTER_PORT": str(port)})
        assert process.stderr is not None
        assert "connects to rank 0" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        finish(process)
    assert process.returncode in (-signal.SIGINT, 130)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is not set: expected a number from 0 to 1"),
        (GROUP | {"RANK": "2"}, "RANK = '2': expected a number from 0 to 1"),
        (GROUP | {"RANK": "-1"}, "RANK = '-1': expected a number from 0 to 1"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK = '1': expected a number from 0 to 0"),
        (GROUP | {"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two': expected a number from 1"),
        (GROUP | {"WORLD_SIZE": "0"}, "WORLD_SIZE = '0': expected a number from 1"),
        (GROUP | {"MASTER_ADDR": ""}, "MASTER_ADDR is not set: expected the host of the process with RANK 0"),
        (GROUP | {"MASTER_PORT": "tcp://10.0.0.1:80"}, "MASTER_PORT = 'tcp://10.0.0.1:80': expected a number from 1"),
        (GROUP | {"LOCAL_RANK": "first"}, "LOCAL_RANK = 'first': expected a number from 0"),
    ],
)
def test_variables_that_make_no_group_are_told_by_name(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        Session()
    assert caught.value.exit_code == 3
    assert told in str(caught.value)


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
def test_variables_that_name_no_group_of_several_are_passed_over(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Session().ranks.size == 1


def test_a_process_with_a_rank_starts_no_further_ones(ganctl: Ganctl) -> None:
    done = ganctl("train", "--nproc", "2", "--json", env=os.environ | GROUP)
    assert done.returncode == 3
    assert "--nproc 2: this process is one of WORLD_SIZE = 2 already. Leave --nproc out" in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 3


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "two"}, {"WORLD_SIZE": "2"}])
def test_a_process_without_a_place_in_a_group_tells_its_error_as_one_object(
    variables: dict[str, str], ganctl: Ganctl
) -> None:
    done = ganctl("train", "--preset", "absent", "--json", env=os.environ | variables)
    assert done.returncode == 3
    assert json.loads(done.stdout)["exit_code"] == 3


def test_commands_that_do_not_train_are_plain_commands_beside_other_ranks(ganctl: Ganctl, small_run: Path) -> None:
    environment = os.environ | GROUP | {"RANK": "1"}
    done = ganctl("evaluate", small_run, "--num-images", "500", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_images"] == 500
    failed = ganctl("evaluate", small_run / "absent", "--json", env=environment)
    assert failed.returncode == 4
    assert json.loads(failed.stdout)["exit_code"] == 4
