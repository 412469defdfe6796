"""A closed terminal ends a training with everything saved; what a process was started to ignore stays ignored."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from ganctl.training.checkpoint.format import read_checkpoint
from tests.held import Hold
from tests.integration.training.processes import Process, finish, pid_of_rank, start
from tests.waiting import PATIENCE, wait_for

STEPS = 40
HELD = 30  # where the signal comes
LIMIT = ("--max-steps", str(STEPS))
TWO_RANKS = ("--nproc", "2")


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return Hold(tmp_path / "hold", HELD)


def saved_step(run_dir: Path) -> int:
    return read_checkpoint(run_dir / "checkpoints/last.safetensors").step


def test_two_ranks_save_when_their_parent_is_hung_up_twice(hold: Hold, tmp_path: Path) -> None:
    """The kernel and the shell both tell of a closed terminal."""
    process = start(tmp_path / "run", *TWO_RANKS, *LIMIT, hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    stdout, stderr = finish(process)
    assert process.returncode == 130, stderr
    record = json.loads(stdout)
    assert record["stop_reason"] == "SIGHUP"
    assert HELD <= record["steps"] == saved_step(tmp_path / "run") < STEPS
    assert f"interrupted by SIGHUP and saved at step {record['steps']}" in stderr


@pytest.mark.parametrize("ignored", [None, signal.SIGHUP])
@pytest.mark.soak
def test_ranks_of_torchrun_save_when_it_is_hung_up_also_where_nohup_started_it(
    ignored: signal.Signals | None, hold: Hold, tmp_path: Path
) -> None:
    """torchrun itself ends on SIGHUP in any case, unless it is told by --signals-to-handle."""
    process = start(tmp_path / "run", *LIMIT, torchrun=("--nproc-per-node=2",), ignored=ignored, hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGHUP)
    stdout, _ = finish(process)
    assert process.returncode != 0
    assert json.loads(stdout)["stop_reason"] == "SIGHUP"
    assert json.loads(stdout)["steps"] == saved_step(tmp_path / "run") < STEPS


@pytest.mark.soak
def test_two_ranks_go_on_under_nohup_whatever_process_is_hung_up(hold: Hold, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, *TWO_RANKS, *LIMIT, ignored=signal.SIGHUP, hold=hold)
    hold.wait(process)
    for pid in (process.pid, pid_of_rank(run_dir, 0), pid_of_rank(run_dir, 1)):
        os.kill(pid, signal.SIGHUP)
    must_go_on(process, hold)


@pytest.mark.soak
def test_ranks_of_torchrun_go_on_under_nohup_where_it_handles_other_signals_only(hold: Hold, tmp_path: Path) -> None:
    options = ("--nproc-per-node=2", "--signals-to-handle=SIGTERM,SIGINT")
    process = start(tmp_path / "run", *LIMIT, torchrun=options, ignored=signal.SIGHUP, hold=hold)
    hold.wait(process)
    process.send_signal(signal.SIGHUP)
    must_go_on(process, hold)


@pytest.mark.parametrize("ignored", [signal.SIGHUP, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_what_was_ignored_at_the_start_stays_ignored(ignored: signal.Signals, hold: Hold, tmp_path: Path) -> None:
    """nohup ignores SIGHUP, a script's shell SIGINT for what it starts with `&`."""
    process = start(tmp_path / "run", *LIMIT, ignored=ignored, hold=hold)
    hold.wait(process)
    process.send_signal(ignored)
    must_go_on(process, hold)


def must_go_on(process: Process, hold: Hold) -> None:
    """It trains to its end."""
    hold.release()
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert (json.loads(stdout)["stop_reason"], json.loads(stdout)["steps"]) == ("max-steps", STEPS)


@pytest.mark.parametrize("words", [TWO_RANKS, pytest.param((), marks=pytest.mark.soak)])
def test_a_closed_terminal_saves_although_nothing_can_be_written_to_it_any_more(
    words: tuple[str, ...], hold: Hold, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    ours, terminal = os.openpty()
    process = start(run_dir, *words, *LIMIT, "--set", "log.refresh=0.001", terminal=terminal, hold=hold)
    os.close(terminal)
    os.set_blocking(ours, False)

    def read_until_held() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 1 << 20)  # a terminal that nobody reads fills
        return hold.reached

    wait_for(read_until_held, "the run is held", process=process)
    os.close(ours)
    assert process.wait(timeout=PATIENCE) == 130
    assert f"ends at step {saved_step(run_dir)}: SIGHUP" in (run_dir / "log.txt").read_text()


def test_a_run_outlives_the_readers_of_its_output(hold: Hold, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, *LIMIT, hold=hold)
    hold.wait(process)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 130
    assert f"ends at step {saved_step(run_dir)}: SIGTERM" in (run_dir / "log.txt").read_text()
