"""Training with two ranks that are killed, stopped or resumed ends bitwise equal to an uninterrupted one."""

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
from tests.integration.training.processes import Process, check_interrupted, finish, pid_of_rank, reserved_port, start
from tests.states import assert_same_run

STEPS = 60
HELD = 50  # the step in which ranks are killed or stopped; the last evaluation was at step 40
LIMIT = ("--max-steps", str(STEPS))

FAILING_CALLBACK = """
from ganctl.training.callbacks.base import Callback

class Failing(Callback):
    every_rank = True
    def on_step(self, run):
        if run.step == 5:
            raise RuntimeError("an error of the callback")
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two ranks."""
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    process = start(run_dir, "--nproc", "2", *LIMIT)
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    record = json.loads(stdout)  # one object: only rank 0 prints
    assert (record["steps"], record["run_dir"], record["stop_reason"]) == (STEPS, str(run_dir), "max-steps")
    assert re.search(r"\b2 ranks\b", stderr), stderr
    assert not (run_dir / ".ranks").exists()
    return run_dir


@pytest.mark.soak
def test_torchrun_restarts_all_ranks_after_one_was_killed_and_they_end_like_an_uninterrupted_run(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    hold = Hold(tmp_path / "hold", HELD)
    process = start(run_dir, *LIMIT, torchrun=("--nproc-per-node=2", "--max-restarts=2"), hold=hold)
    hold.wait(process)
    os.kill(pid_of_rank(run_dir, 1), signal.SIGKILL)
    hold.release()
    _, stderr = finish(process)
    assert process.returncode == 0, stderr
    check_resumed(stderr, 40)
    assert_same_run(uninterrupted, run_dir)


def check_resumed(stderr: str, step: int) -> None:
    """Checks that the message about a resumed run names the checkpoint and its step."""
    assert re.search(rf"/checkpoints/\S+ .*\bstep {step}\b", stderr), stderr


def start_on_two_machines(run_dir: Path, port: int, hold: Hold | None = None) -> list[Process]:
    """Simulates two machines of one rank: starts two agents of torchrun, which connect through the port."""
    rendezvous = ("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=a")
    torchrun = ("--nnodes=2", "--nproc-per-node=1", "--max-restarts=2", *rendezvous)
    return [start(run_dir, *LIMIT, torchrun=torchrun, hold=hold) for _ in range(2)]


@pytest.mark.soak
def test_ranks_of_two_machines_restart_even_if_one_is_killed_while_rank_0_evaluates(
    tmp_path: Path,
) -> None:
    run_dir, expected, hold = tmp_path / "run", tmp_path / "uninterrupted", Hold(tmp_path / "hold", 40, evaluation=True)
    with reserved_port() as port:
        machines = start_on_two_machines(expected, port)
        outputs = [finish(machine) for machine in machines]
        assert [machine.returncode for machine in machines] == [0, 0], outputs
    with reserved_port() as port:
        machines = start_on_two_machines(run_dir, port, hold)
        hold.wait(machines[0])
        os.kill(pid_of_rank(run_dir, 1), signal.SIGKILL)
        hold.release()
        outputs = [finish(machine) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert sorted(len(stdout.splitlines()) for stdout, _ in outputs) == [0, 1], "one rank prints the result, once"
    assert_same_run(expected, run_dir)


def test_nproc_restarts_all_ranks_after_one_was_killed_and_they_end_like_an_uninterrupted_run(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    hold = Hold(tmp_path / "hold", HELD)
    process = start(run_dir, "--nproc", "2", *LIMIT, hold=hold)
    hold.wait(process)
    os.kill(pid_of_rank(run_dir, 0), signal.SIGKILL)
    hold.release()
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert re.search(rf"\bkilled\b.*\b2 ranks restart\b.*{re.escape(str(run_dir))}", stderr), stderr
    check_resumed(stderr, 40)
    assert json.loads(stdout)["steps"] == STEPS
    assert_same_run(uninterrupted, run_dir)


@pytest.mark.soak
def test_nproc_saves_on_sigterm_and_the_resumed_run_ends_like_an_uninterrupted_one(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    hold = Hold(tmp_path / "hold", HELD)
    process = start(run_dir, "--nproc", "2", *LIMIT, hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = finish(process)
    assert process.returncode == 130, stderr
    steps = json.loads(stdout)["steps"]
    assert HELD <= steps <= HELD + 1  # the ranks stop after this step or the next
    check_interrupted(stderr, signal.SIGTERM, steps)
    again = start(run_dir, "--nproc", "2", "--resume", "auto", *LIMIT)
    _, stderr = finish(again)
    assert again.returncode == 0, stderr
    check_resumed(stderr, steps)
    assert_same_run(uninterrupted, run_dir)


@pytest.mark.soak
def test_stopped_torchrun_never_exits_with_0_and_one_rank_can_resume_the_run_of_two(tmp_path: Path) -> None:
    two, hold = tmp_path / "two", Hold(tmp_path / "hold", HELD)
    process = start(two, *LIMIT, "--precision", "fp32", torchrun=("--nproc-per-node=2",), hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGTERM)
    _, stderr = finish(process)
    assert process.returncode != 0
    steps = read_checkpoint(two / "checkpoints/last.safetensors").step
    check_interrupted(stderr, signal.SIGTERM, steps)

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
    for name, weight in states[0]["networks"]["ema"].items():  # sums over other shares of the batch round differently
        assert (states[1]["networks"]["ema"][name] - weight).norm() <= 1e-4 * weight.norm() + 1e-6, name


@pytest.mark.soak
def test_an_error_of_a_callback_on_every_rank_is_reported_and_causes_no_restart(tmp_path: Path) -> None:
    (tmp_path / "failing_callback.py").write_text(FAILING_CALLBACK)
    process = start(
        tmp_path / "run", "--nproc", "2", "--callback", "failing_callback:Failing", *LIMIT, python_path=tmp_path
    )
    stdout, stderr = finish(process)
    assert process.returncode == 1
    assert "an error of the callback" in stderr
    assert "ranks restart" not in stderr
    assert json.loads(stdout)["exit_code"] == 1


@pytest.mark.soak
def test_a_stop_request_of_a_callback_on_rank_0_stops_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "stopping_callback.py").write_text(
        "from ganctl.training.callbacks.base import Callback\n\n"
        "class StopAfterSave(Callback):\n"
        "    def on_checkpoint(self, run, path):\n"
        "        run.request_stop('saved enough')\n"
    )
    words = ("--nproc", "2", "--callback", "stopping_callback:StopAfterSave", *LIMIT)
    process = start(tmp_path / "run", *words, python_path=tmp_path)
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert "ranks restart" not in stderr
    assert (json.loads(stdout)["stop_reason"], json.loads(stdout)["steps"]) == ("saved enough", 20)


@pytest.mark.soak
def test_ranks_with_data_loaders_save_on_sigterm_and_flags_override_variables_on_every_rank(tmp_path: Path) -> None:
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
    assert saved.state["config"]["train"]["seed"] == 0, "--seed 0 overrides GANCTL_TRAIN__SEED on every rank"


UNEQUAL_RANKS = """
import os
import torch
from ganctl.training.data.datasets import load_split
from ganctl.training.config.schema import DataSettings
from ganctl.training.config.schema import ModelSettings
from ganctl.training.models.build import build_discriminator

def discriminator(settings, shape, classes):
    network = build_discriminator(ModelSettings(base_channels=4), shape, classes)
    torch.nn.init.constant_(network.logit.bias, float(os.environ["RANK"]))
    return network

def data(settings, split):
    if os.environ.get("RANK") == "1" and os.environ.get("WORLD_SIZE") == "2":
        raise SystemExit(4)
    return load_split(DataSettings(), split)
"""


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.discriminator='unequal:discriminator'", r"\bweights: rank 1 of 2\b"),
        ("data.source='unequal:data'", r"\brank (failed|ended)\b"),
    ],
)
@pytest.mark.soak
def test_a_rank_that_differs_or_fails_ends_all_ranks_with_one_json_object_and_no_restart(
    setting: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "unequal.py").write_text(UNEQUAL_RANKS)
    words = ("--nproc", "2", "--set", setting, *LIMIT)
    process = start(tmp_path / "run", *words, python_path=tmp_path)
    stdout, stderr = finish(process)
    assert process.returncode > 0, stderr
    assert re.search(message, json.loads(stdout)["error"])
    assert "ranks restart" not in stderr


@pytest.mark.parametrize("flag", ["--dry-run", pytest.param("--print-config", marks=pytest.mark.soak)])
@pytest.mark.soak
def test_one_rank_prints_the_output_under_torchrun(flag: str, tmp_path: Path) -> None:
    process = start(tmp_path / "run", flag, torchrun=("--nproc-per-node=2",))
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert len(json.loads(stdout)) > 5


@pytest.mark.soak
def test_two_runs_of_two_ranks_can_share_a_machine(tmp_path: Path) -> None:
    processes = [start(tmp_path / name, "--nproc", "2", "--max-steps", "3") for name in "ab"]
    for process in processes:
        stdout, stderr = finish(process)
        assert process.returncode == 0, stderr
        assert json.loads(stdout)["steps"] == 3
