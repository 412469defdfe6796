"""SIGHUP of a closed terminal ends a training with a checkpoint; ignored signals stay ignored."""

import contextlib
import json
import os
import re
import signal
from pathlib import Path

import pytest

from ganctl.training.checkpoint.format import read_checkpoint
from tests.held import Hold
from tests.integration.training.processes import Process, check_interrupted, finish, pid_of_rank, start
from tests.waiting import PATIENCE, wait_for

STEPS = 40
HELD = 30  # the step in which the signal arrives
LIMIT = ("--max-steps", str(STEPS))
TWO_RANKS = ("--nproc", "2")


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return Hold(tmp_path / "hold", HELD)


def saved_step(run_dir: Path) -> int:
    return read_checkpoint(run_dir / "checkpoints/last.safetensors").step


def check_log(run_dir: Path, number: signal.Signals) -> None:
    """Checks that the last line of the log names the saved step and the signal."""
    last = (run_dir / "log.txt").read_text().splitlines()[-1]
    assert re.search(rf"\bstep {saved_step(run_dir)}\b.*\b{number.name}\b", last), last


@pytest.mark.soak
def test_two_ranks_save_when_nproc_gets_sighup_twice(hold: Hold, tmp_path: Path) -> None:
    """The kernel and the shell both send SIGHUP when a terminal is closed."""
    process = start(tmp_path / "run", *TWO_RANKS, *LIMIT, hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    stdout, stderr = finish(process)
    assert process.returncode == 130, stderr
    record = json.loads(stdout)
    assert record["stop_reason"] == "SIGHUP"
    assert HELD <= record["steps"] == saved_step(tmp_path / "run") < STEPS
    check_interrupted(stderr, signal.SIGHUP, record["steps"])


@pytest.mark.parametrize("ignored", [None, signal.SIGHUP])
@pytest.mark.soak
def test_ranks_save_when_torchrun_gets_sighup_even_under_nohup(
    ignored: signal.Signals | None, hold: Hold, tmp_path: Path
) -> None:
    """torchrun itself ends on SIGHUP, unless --signals-to-handle excludes it."""
    process = start(tmp_path / "run", *LIMIT, torchrun=("--nproc-per-node=2",), ignored=ignored, hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGHUP)
    stdout, _ = finish(process)
    assert process.returncode != 0
    assert json.loads(stdout)["stop_reason"] == "SIGHUP"
    assert json.loads(stdout)["steps"] == saved_step(tmp_path / "run") < STEPS


@pytest.mark.soak
def test_two_ranks_under_nohup_continue_after_sighup_to_any_of_their_processes(hold: Hold, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, *TWO_RANKS, *LIMIT, ignored=signal.SIGHUP, hold=hold)
    hold.wait(process)
    for pid in (process.pid, pid_of_rank(run_dir, 0), pid_of_rank(run_dir, 1)):
        os.kill(pid, signal.SIGHUP)
    check_completes(process, hold)


@pytest.mark.soak
def test_ranks_under_nohup_continue_after_sighup_if_torchrun_does_not_handle_it(hold: Hold, tmp_path: Path) -> None:
    options = ("--nproc-per-node=2", "--signals-to-handle=SIGTERM,SIGINT")
    process = start(tmp_path / "run", *LIMIT, torchrun=options, ignored=signal.SIGHUP, hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGHUP)
    check_completes(process, hold)


@pytest.mark.parametrize("ignored", [signal.SIGHUP, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
@pytest.mark.soak
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(
    ignored: signal.Signals, hold: Hold, tmp_path: Path
) -> None:
    """nohup ignores SIGHUP; the shell of a script ignores SIGINT for commands with `&`."""
    process = start(tmp_path / "run", *LIMIT, ignored=ignored, hold=hold)
    hold.wait(process)
    process.send_signal(ignored)
    check_completes(process, hold)


def check_completes(process: Process, hold: Hold) -> None:
    """Releases the training, and checks that it runs to its last step."""
    hold.release()
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert (json.loads(stdout)["stop_reason"], json.loads(stdout)["steps"]) == ("max-steps", STEPS)


@pytest.mark.parametrize("words", [TWO_RANKS, pytest.param((), marks=pytest.mark.soak)])
def test_a_training_saves_when_its_terminal_is_closed(words: tuple[str, ...], hold: Hold, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    controller, terminal = os.openpty()
    process = start(run_dir, *words, *LIMIT, "--set", "log.refresh=0.001", terminal=terminal, hold=hold)
    os.close(terminal)
    os.set_blocking(controller, False)

    def read_until_held() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(controller, 1 << 20)  # the buffer of an unread terminal becomes full
        return hold.reached

    wait_for(read_until_held, "the run is held", process=process)
    os.close(controller)
    assert process.wait(timeout=PATIENCE) == 130
    check_log(run_dir, signal.SIGHUP)


@pytest.mark.soak
def test_a_training_continues_when_stdout_and_stderr_are_closed_and_saves_on_sigterm(
    hold: Hold, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, *LIMIT, hold=hold)
    hold.wait(process)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 130
    check_log(run_dir, signal.SIGTERM)
