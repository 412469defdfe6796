"""Two ranks that are killed, stopped or started anew: the run goes on, and ends as one that was left alone."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from ganctl.training.checkpoint.format import read_checkpoint
from tests.held import Hold
from tests.integration.training.processes import Process, finish, pid_of_rank, reserved_port, start
from tests.states import assert_same_run

STEPS = 120
HELD = 50  # where runs are hurt: between the evaluations of steps 40 and 60
LIMIT = ("--max-steps", str(STEPS))

CALLBACK = """
from ganctl.training.callbacks.base import Callback

class Failing(Callback):
    every_rank = True
    def on_step(self, run):
        if run.step == 5:
            raise RuntimeError("a callback's own defect")
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(run_dir, "--nproc", "2", *LIMIT)
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    record = json.loads(stdout)  # one object: the other rank says nothing
    assert (record["steps"], record["run_dir"], record["stop_reason"]) == (STEPS, str(run_dir), "max-steps")
    assert "over 2 ranks" in stderr
    assert not (run_dir / ".ranks").exists()
    return run_dir


@pytest.mark.soak
def test_torchrun_starts_ranks_again_when_one_was_killed_and_they_end_as_if_it_had_not_been(
    undisturbed: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    hold = Hold(tmp_path / "hold", HELD)
    process = start(run_dir, *LIMIT, torchrun=("--nproc-per-node=2", "--max-restarts=2"), hold=hold)
    hold.wait(process)
    os.kill(pid_of_rank(run_dir, 1), signal.SIGKILL)
    hold.release()
    _, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert "from step 40" in stderr
    assert_same_run(undisturbed, run_dir)


def start_on_two_machines(run_dir: Path, port: int, hold: Hold | None = None) -> list[Process]:
    """A rank on each: an agent each, who do not know that they share one. The agents meet at the port."""
    meeting = ("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=a")
    torchrun = ("--nnodes=2", "--nproc-per-node=1", "--max-restarts=2", *meeting)
    return [start(run_dir, *LIMIT, torchrun=torchrun, hold=hold) for _ in range(2)]


@pytest.mark.soak
def test_ranks_of_two_machines_start_again_too_even_if_one_is_killed_while_the_first_one_evaluates(
    tmp_path: Path,
) -> None:
    run_dir, alone, hold = tmp_path / "run", tmp_path / "undisturbed", Hold(tmp_path / "hold", 40, evaluation=True)
    with reserved_port() as port:
        machines = start_on_two_machines(alone, port)
        outputs = [finish(machine) for machine in machines]
        assert [machine.returncode for machine in machines] == [0, 0], outputs
    with reserved_port() as port:
        machines = start_on_two_machines(run_dir, port, hold)
        hold.wait(machines[0])
        os.kill(pid_of_rank(run_dir, 1), signal.SIGKILL)
        hold.release()
        outputs = [finish(machine) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert sorted(len(stdout.splitlines()) for stdout, _ in outputs) == [0, 1], "one rank tells the result, once"
    assert_same_run(alone, run_dir)


def test_nproc_starts_ranks_again_when_one_was_killed_and_they_end_as_if_it_had_not_been(
    undisturbed: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    hold = Hold(tmp_path / "hold", HELD)
    process = start(run_dir, "--nproc", "2", *LIMIT, hold=hold)
    hold.wait(process)
    os.kill(pid_of_rank(run_dir, 0), signal.SIGKILL)
    hold.release()
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert "a rank was killed: all 2 ranks restart" in stderr
    assert json.loads(stdout)["steps"] == STEPS
    assert_same_run(undisturbed, run_dir)


def test_nproc_passes_a_signal_on_saves_and_goes_on_later_as_if_it_had_not_been_stopped(
    undisturbed: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    hold = Hold(tmp_path / "hold", HELD)
    process = start(run_dir, "--nproc", "2", *LIMIT, hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = finish(process)
    assert process.returncode == 130, stderr
    steps = json.loads(stdout)["steps"]
    assert HELD <= steps <= HELD + 1  # the signal is noticed in this step or the next
    assert f"interrupted by SIGTERM and saved at step {steps}" in stderr
    again = start(run_dir, "--nproc", "2", "--resume", "auto", *LIMIT)
    _, stderr = finish(again)
    assert again.returncode == 0, stderr
    assert f"from step {steps}" in stderr
    assert_same_run(undisturbed, run_dir)


@pytest.mark.soak
def test_torchrun_that_is_stopped_never_ends_with_0_and_one_rank_may_go_on_where_two_stopped(tmp_path: Path) -> None:
    two, hold = tmp_path / "two", Hold(tmp_path / "hold", HELD)
    process = start(two, *LIMIT, "--precision", "fp32", torchrun=("--nproc-per-node=2",), hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGTERM)
    _, stderr = finish(process)
    assert process.returncode != 0
    steps = read_checkpoint(two / "checkpoints/last.safetensors").step
    assert f"interrupted by SIGTERM and saved at step {steps}" in stderr

    one = tmp_path / "one"
    shutil.copytree(two, one)
    states = []
    for run_dir, ranks in ((one, "1"), (two, "2")):
        again = start(run_dir, "--resume", "auto", "--nproc", ranks, "--max-steps", str(steps + 3))
        _, stderr = finish(again)
        assert again.returncode == 0, stderr
        states.append(read_checkpoint(run_dir / "checkpoints/last.safetensors").state)
    assert states[0]["progress"] == states[1]["progress"]
    assert torch.equal(*(state["networks"]["rng"] for state in states)), "the latents are the same"
    for name, weight in states[0]["networks"]["ema"].items():  # sums that are split otherwise round otherwise
        assert (states[1]["networks"]["ema"][name] - weight).norm() <= 1e-4 * weight.norm() + 1e-6, name


def test_what_a_rank_fails_on_by_itself_is_told_and_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "failing_callback.py").write_text(CALLBACK)
    process = start(
        tmp_path / "run", "--nproc", "2", "--callback", "failing_callback:Failing", *LIMIT, python_path=tmp_path
    )
    stdout, stderr = finish(process)
    assert process.returncode == 1
    assert "a callback's own defect" in stderr
    assert "start again" not in stderr
    assert json.loads(stdout)["exit_code"] == 1


@pytest.mark.soak
def test_the_end_asked_for_after_a_save_on_one_rank_ends_all(tmp_path: Path) -> None:
    (tmp_path / "late_callback.py").write_text(
        "from ganctl.training.callbacks.base import Callback\n\n"
        "class AtSave(Callback):\n"
        "    def on_checkpoint(self, run, path):\n"
        "        run.request_stop('saved enough')\n"
    )
    words = ("--nproc", "2", "--callback", "late_callback:AtSave", *LIMIT)
    process = start(tmp_path / "run", *words, python_path=tmp_path)
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert "start again" not in stderr
    assert (json.loads(stdout)["stop_reason"], json.loads(stdout)["steps"]) == ("saved enough", 20)


@pytest.mark.soak
def test_a_signal_to_ranks_with_loaders_saves(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    loader = ("--set", "data.on_device=false", "--set", "data.num_workers=1")
    hold = Hold(tmp_path / "hold", HELD)
    words = ("--nproc", "2", "--seed", "0", *loader, *LIMIT)
    process = start(run_dir, *words, hold=hold, variables={"GANCTL_TRAIN__SEED": "3"})
    hold.wait(process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = finish(process)
    assert process.returncode == 130, stderr
    saved = read_checkpoint(run_dir / "checkpoints/last.safetensors")
    assert saved.step == json.loads(stdout)["steps"]
    assert saved.state["config"]["train"]["seed"] == 0, "the flag comes before the variable for each rank, zero too"


UNEQUAL = """
import os
import torch
from ganctl.training.data.datasets import load_split
from ganctl.training.config.schema import DataSettings
from ganctl.training.config.schema import ModelSettings
from ganctl.training.models.build import build_discriminator

def judge(settings, shape, classes):
    network = build_discriminator(ModelSettings(base_channels=4), shape, classes)
    torch.nn.init.constant_(network.logit.bias, float(os.environ["RANK"]))
    return network

def data(settings, split):
    if os.environ.get("RANK") == "1" and os.environ.get("WORLD_SIZE") == "2":
        raise SystemExit(4)
    return load_split(DataSettings(), split)
"""


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("model.discriminator='unequal:judge'", "the first weights: rank 1 of 2 differs from rank 0"),
        ("data.name='unequal:data'", "before rank 0 printed a result|another rank ended while"),
    ],
)
def test_ranks_that_differ_or_fail_alone_end_the_run_with_one_object_that_says_so(
    setting: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "unequal.py").write_text(UNEQUAL)
    words = ("--nproc", "2", "--set", setting, *LIMIT)
    process = start(tmp_path / "run", *words, python_path=tmp_path)
    stdout, stderr = finish(process)
    assert process.returncode > 0, stderr
    assert re.search(told, json.loads(stdout)["error"])
    assert "start again" not in stderr


@pytest.mark.parametrize("flag", ["--dry-run", pytest.param("--print-config", marks=pytest.mark.soak)])
def test_under_torchrun_one_rank_speaks(flag: str, tmp_path: Path) -> None:
    process = start(tmp_path / "run", flag, torchrun=("--nproc-per-node=2",))
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert len(json.loads(stdout)) > 5


@pytest.mark.soak
def test_two_runs_of_two_ranks_share_a_machine(tmp_path: Path) -> None:
    processes = [start(tmp_path / name, "--nproc", "2", "--max-steps", "3") for name in "ab"]
    for process in processes:
        stdout, stderr = finish(process)
        assert process.returncode == 0, stderr
        assert json.loads(stdout)["steps"] == 3
